"""Sparse convolution in registers: loops that numba compiles, through LLVM, for the processor at hand.

Outputs are made in blocks of `BLOCK` rows that stay in the cache. For one tap after the other, the pairs of the block
are taken a few rows at a time: their outputs are loaded into registers, `inputs x outputs` fused multiply-adds are
done there, and they go back to the block. Kernels are read once per few rows, features never copied, pairs never
searched. A *tile* is what fits into 16 registers: 8 rows by 1 vector of channels, 6 by 2, 4 by 3.

Python cannot say "keep these in registers", and numba's compiler does not find out by itself (many times slower); so
the two tiles are written as LLVM instructions, which numba puts into its loops. The same in C would need a compiler on
the user's machine (docs/decisions/0004). Tiles and the loops around them share a file because numba's cache notices
changes of a file, not of what it imports.
"""

import inspect
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from sparse_ulm.sparse.loops import compiled

BLOCK = 512
"""Rows made at a time: 64 kB at 32 channels, in the second cache; 128 rows were up to a quarter slower."""

GRADIENT_BYTES = 32_768
"""Block of output gradients, which a kernel gradient reads once per few channels: it stays in the first cache."""

VECTOR_BYTES = 64 if llvm.get_host_cpu_features().get("avx512f") else 32
"""Bytes of a vector of channels; a processor with narrower registers takes two of them, which LLVM arranges."""

MOST_ROWS = 8
"""Rows of the highest tile."""


class _Vectors:
    """Writes vector instructions for one floating-point type."""

    def __init__(self, context: Any, builder: Any, dtype: Any) -> None:
        self.builder, self.bytes = builder, dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.bytes
        self.type = ir.VectorType(context.get_data_type(dtype), self.lanes)
        name = f"llvm.fma.v{self.lanes}f{dtype.bitwidth}"
        self.fma = cgutils.get_or_insert_function(builder.module, ir.FunctionType(self.type, [self.type] * 3), name)

    def load(self, pointer: Any, number: int) -> Any:
        """Load vector `number` after `pointer`."""
        return self.builder.load(self._at(pointer, number), align=self.bytes)

    def store(self, value: Any, pointer: Any, number: int) -> None:
        """Store vector `number` after `pointer`."""
        self.builder.store(value, self._at(pointer, number), align=self.bytes)

    def splat(self, scalar: Any) -> Any:
        """Fill a vector with one number."""
        undefined = ir.Constant(self.type, ir.Undefined)
        single = self.builder.insert_element(undefined, scalar, ir.Constant(ir.IntType(32), 0))
        order = ir.Constant(ir.VectorType(ir.IntType(32), self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(single, undefined, order)

    def variable(self, value: Any) -> Any:
        """Make a variable; LLVM keeps it in a register."""
        slot = cgutils.alloca_once(self.builder, self.type)
        self.builder.store(value, slot)
        return slot

    def multiply_add(self, a: Any, b: Any, variable: Any) -> None:
        """Add a * b to the variable, rounded once."""
        self.builder.store(self.builder.call(self.fma, [a, b, self.builder.load(variable)]), variable)

    def _at(self, pointer: Any, number: int) -> Any:
        step = ir.Constant(ir.IntType(64), number * self.lanes)
        return self.builder.bitcast(self.builder.gep(pointer, [step]), self.type.as_pointer())


class _Array:
    """Addresses in a contiguous array of one or two dimensions."""

    def __init__(self, context: Any, builder: Any, array_type: Any, value: Any) -> None:
        self.builder, struct = builder, context.make_array(array_type)(context, builder, value)
        self.data = struct.data
        self.width = builder.extract_value(struct.shape, array_type.ndim - 1)

    def row(self, row: Any, column: Any = None) -> Any:
        """Address an element of a matrix; the first of the row without `column`."""
        start = self.builder.mul(row, self.width)
        return self.builder.gep(self.data, [start if column is None else self.builder.add(start, column)])

    def integer(self, at: Any, offset: int) -> Any:
        """Load element at + offset of a list of rows."""
        place = self.builder.add(at, ir.Constant(ir.IntType(64), offset))
        return self.builder.sext(self.builder.load(self.builder.gep(self.data, [place])), ir.IntType(64))


def _arrays(context: Any, builder: Any, signature: Any, arguments: Any) -> list[Any]:
    """Wrap arrays; leave integers as they are."""
    pairs = zip(signature.args, arguments, strict=True)
    return [_Array(context, builder, t, a) if isinstance(t, types.Array) else a for t, a in pairs]


def _product_tile(n_rows: int, n_vectors: int) -> Any:
    """Make the tile buffer[row] += feats[row] @ weight for `n_rows` pairs from `at`, `n_vectors` from `column`."""

    def tile(_context, feats, weight, buffer, feat_rows, buffer_rows, at, first_row, column):
        signature = types.void(feats, weight, buffer, feat_rows, buffer_rows, types.intp, types.intp, types.intp)

        def emit(context, builder, signature, arguments):
            vectors = _Vectors(context, builder, signature.args[2].dtype)
            feats, weight, buffer, feat_rows, buffer_rows, at, first_row, column = _arrays(
                context, builder, signature, arguments
            )
            sources = [feats.row(feat_rows.integer(at, r)) for r in range(n_rows)]
            targets = [buffer.row(builder.sub(buffer_rows.integer(at, r), first_row), column) for r in range(n_rows)]
            sums = [[vectors.variable(vectors.load(target, v)) for v in range(n_vectors)] for target in targets]
            with cgutils.for_range(builder, feats.width) as channel:
                kernel = weight.row(channel.index, column)
                factors = [vectors.load(kernel, v) for v in range(n_vectors)]
                for r in range(n_rows):
                    feature = vectors.splat(builder.load(builder.gep(sources[r], [channel.index])))
                    for v in range(n_vectors):
                        vectors.multiply_add(feature, factors[v], sums[r][v])
            for r in range(n_rows):
                for v in range(n_vectors):
                    vectors.store(builder.load(sums[r][v]), targets[r], v)
            return context.get_dummy_value()

        return signature, emit

    return intrinsic(inspect.unwrap(tile))


def _gradient_tile(n_channels: int, n_vectors: int) -> Any:
    """Make the tile total[channel c, :] += sum over pairs of feats[row, c] * buffer[row, :], start <= pair < stop."""

    def tile(_context, feats, buffer, total, feat_rows, buffer_rows, start, stop, first_row, channel, column):
        integers = [types.intp] * 5
        signature = types.void(feats, buffer, total, feat_rows, buffer_rows, *integers)

        def emit(context, builder, signature, arguments):
            vectors = _Vectors(context, builder, signature.args[1].dtype)
            feats, buffer, total, feat_rows, buffer_rows, start, stop, first_row, channel, column = _arrays(
                context, builder, signature, arguments
            )
            zero = ir.Constant(vectors.type, [0.0] * vectors.lanes)
            sums = [[vectors.variable(zero) for _ in range(n_vectors)] for _ in range(n_channels)]
            with cgutils.for_range_slice(builder, start, stop, ir.Constant(ir.IntType(64), 1)) as (pair, _):
                source = feats.row(feat_rows.integer(pair, 0), channel)
                target = buffer.row(builder.sub(buffer_rows.integer(pair, 0), first_row), column)
                gradients = [vectors.load(target, v) for v in range(n_vectors)]
                for c in range(n_channels):
                    feature = vectors.splat(builder.load(builder.gep(source, [ir.Constant(ir.IntType(64), c)])))
                    for v in range(n_vectors):
                        vectors.multiply_add(feature, gradients[v], sums[c][v])
            for c in range(n_channels):
                place = total.row(builder.add(channel, ir.Constant(ir.IntType(64), c)), column)
                for v in range(n_vectors):
                    vectors.store(builder.fadd(vectors.load(place, v), builder.load(sums[c][v])), place, v)
            return context.get_dummy_value()

        return signature, emit

    return intrinsic(inspect.unwrap(tile))


_product_8x1, _product_6x2, _product_4x3 = _product_tile(8, 1), _product_tile(6, 2), _product_tile(4, 3)
_gradient_8x1, _gradient_4x1 = _gradient_tile(8, 1), _gradient_tile(4, 1)
_gradient_6x2, _gradient_4x2, _gradient_4x3 = _gradient_tile(6, 2), _gradient_tile(4, 2), _gradient_tile(4, 3)


@compiled
def _vectors_next(columns, lanes):
    """Choose how many vectors the next tile spans: three if just three are left, else two, else one."""
    left = columns // lanes
    return left if left <= 3 else 2


@compiled
def _add_products(feats, weight, buffer, feat_rows, buffer_rows, start, stop, first_row, n_vectors, column):
    """Run product tiles over pairs start ... stop - 1; the caller has made their number a multiple of the rows."""
    if n_vectors == 1:
        for at in range(start, stop, 8):
            _product_8x1(feats, weight, buffer, feat_rows, buffer_rows, at, first_row, column)
    elif n_vectors == 2:
        for at in range(start, stop, 6):
            _product_6x2(feats, weight, buffer, feat_rows, buffer_rows, at, first_row, column)
    else:
        for at in range(start, stop, 4):
            _product_4x3(feats, weight, buffer, feat_rows, buffer_rows, at, first_row, column)


@compiled
def _add_tap(feats, weight, buffer, feat_rows, buffer_rows, start, stop, first_row, rest_feats, rest_buffer):
    """Add one tap to a block; pairs that fill no tile are completed with the spare last row of the buffer."""
    lanes = VECTOR_BYTES // buffer.itemsize
    column = 0
    while column < weight.shape[1]:
        n_vectors = _vectors_next(weight.shape[1] - column, lanes)
        n_rows = 8 if n_vectors == 1 else 12 // n_vectors
        whole = start + (stop - start) // n_rows * n_rows
        _add_products(feats, weight, buffer, feat_rows, buffer_rows, start, whole, first_row, n_vectors, column)
        if whole < stop:
            for r in range(n_rows):
                inside = whole + r < stop
                rest_feats[r] = feat_rows[whole + r] if inside else 0
                rest_buffer[r] = buffer_rows[whole + r] - first_row if inside else buffer.shape[0] - 1
            _add_products(feats, weight, buffer, rest_feats, rest_buffer, 0, n_rows, 0, n_vectors, column)
        column += n_vectors * lanes


@compiled
def _fill(buffer, bias, n_rows):
    """Start every row with the bias, or with zero where there is none."""
    if bias.shape[0] == 0:
        buffer[:n_rows] = 0
    else:
        for row in range(n_rows):
            for column in range(bias.shape[0]):
                buffer[row, column] = bias[column]


@compiled
def _copy(source, target, source_row, target_row, n_rows):
    """Copy rows of unequal width; in one piece where the widths are equal, which is three times faster."""
    width = min(source.shape[1], target.shape[1])
    if source.shape[1] == target.shape[1]:
        start, stop = target_row * width, (target_row + n_rows) * width
        shift = (source_row - target_row) * width
        target.reshape(-1)[start:stop] = source.reshape(-1)[start + shift : stop + shift]
    else:
        for row in range(n_rows):
            for column in range(width):
                target[target_row + row, column] = source[source_row + row, column]


@compiled
def convolve_blocks(feats, kernel, bias, rows_in, rows_out, swap, bounds, result, first_block, last_block):
    """Make result[rows of the blocks] = bias + sum over taps of feats[in] @ kernel[tap].

    Per tap, `rows_in` and `rows_out` hold the rows of its pairs, the other way round where `swap`; `bounds[block]` and
    `bounds[block + 1]` say which of them have their output in the block. kernel and bias are padded to whole vectors.
    """
    n_taps, padded = kernel.shape[0], kernel.shape[2]
    buffer = np.empty((BLOCK + 1, padded), kernel.dtype)
    rest_feats, rest_buffer = np.empty(MOST_ROWS, np.int32), np.empty(MOST_ROWS, np.int32)
    for block in range(first_block, last_block):
        first_row = block * BLOCK
        n_rows = min(BLOCK, result.shape[0] - first_row)
        _fill(buffer, bias, n_rows)
        for tap in range(n_taps):
            start, stop = bounds[block, tap], bounds[block + 1, tap]
            if swap[tap]:
                _add_tap(feats, kernel[tap], buffer, rows_out, rows_in, start, stop, first_row, rest_feats, rest_buffer)
            else:
                _add_tap(feats, kernel[tap], buffer, rows_in, rows_out, start, stop, first_row, rest_feats, rest_buffer)
        _copy(buffer, result, 0, first_row, n_rows)


@compiled
def _add_gradient(feats, buffer, total, feat_rows, buffer_rows, start, stop, first_row):
    """Add one tap of a block to the kernel gradient, tile after tile; channels come in fours."""
    lanes = VECTOR_BYTES // buffer.itemsize
    column = 0
    while column < total.shape[1]:
        n_vectors = _vectors_next(total.shape[1] - column, lanes)
        c = 0
        while c < feats.shape[1]:
            if n_vectors == 1 and c + 8 <= feats.shape[1]:
                _gradient_8x1(feats, buffer, total, feat_rows, buffer_rows, start, stop, first_row, c, column)
                c += 4
            elif n_vectors == 1:
                _gradient_4x1(feats, buffer, total, feat_rows, buffer_rows, start, stop, first_row, c, column)
            elif n_vectors == 2 and (c + 6 == feats.shape[1] or c + 10 <= feats.shape[1]):
                _gradient_6x2(feats, buffer, total, feat_rows, buffer_rows, start, stop, first_row, c, column)
                c += 2
            elif n_vectors == 2:
                _gradient_4x2(feats, buffer, total, feat_rows, buffer_rows, start, stop, first_row, c, column)
            else:
                _gradient_4x3(feats, buffer, total, feat_rows, buffer_rows, start, stop, first_row, c, column)
            c += 4
        column += n_vectors * lanes


@compiled
def kernel_gradient_blocks(feats, grad, rows_in, rows_out, swap, bounds, total, n_block_rows, first_block, last_block):
    """Add sum over pairs of feats[in]^T grad[out] to total[tap], for outputs in the blocks; see `convolve_blocks`.

    Channels of feats, and the rows of total, come in fours; columns of total are padded to whole vectors.
    """
    n_taps, padded = total.shape[0], total.shape[2]
    buffer = np.zeros((n_block_rows, padded), total.dtype)
    for block in range(first_block, last_block):
        first_row = block * n_block_rows
        _copy(grad, buffer, first_row, 0, min(n_block_rows, grad.shape[0] - first_row))
        for tap in range(n_taps):
            start, stop = bounds[block, tap], bounds[block + 1, tap]
            if swap[tap]:
                _add_gradient(feats, buffer, total[tap], rows_out, rows_in, start, stop, first_row)
            else:
                _add_gradient(feats, buffer, total[tap], rows_in, rows_out, start, stop, first_row)
