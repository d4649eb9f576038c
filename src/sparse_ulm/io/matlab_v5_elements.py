"""Walk through a variable of a MATLAB v5 file before scipy reads it: its compiled reader trusts what tags say.

A damaged type, size or shape sends it beyond its tables and buffers, which ends the process without a word (seen with
scipy 1.17: a type that does not exist, in one of two readings).
"""

import mmap
import struct
import zlib
from pathlib import Path

FILE_HEADER_BYTES = 128
MI_INT8, MI_INT32, MI_UINT32, MI_MATRIX, MI_COMPRESSED = 1, 5, 6, 14, 15
BYTES_OF_NUMBER = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8}
"""By type of element: integers of 8 to 64 bits, single, double."""

TEXT_TYPES = {1, 2, 4, 16, 17, 18}
CELL, STRUCT, CHARACTERS = 1, 2, 4
NUMERIC = range(6, 16)
COMPLEX_FLAG = 0x0800
MOST_NESTED = 20

Buffer = bytes | mmap.mmap


class DamagedElementError(ValueError):
    """A tag that contradicts the format."""


def check_variable(path: Path, name: str) -> None:
    """Check all tags of a variable; nothing is said of one that the file does not hold.

    Raises:
        DamagedElementError: If a tag names a type that does not belong there, or a size that does not fit.

    Source: MathWorks' "MAT-File Format", "Level 5 MAT-File Format"; objects, sparse arrays and functions, which no
        recording is made of, are not looked into.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        order = "<" if content[126:128] == b"IM" else ">"
        position = FILE_HEADER_BYTES
        while position < len(content):
            kind, n_bytes = struct.unpack_from(f"{order}II", content, position)
            start, stop = position + 8, position + 8 + n_bytes
            if kind == MI_COMPRESSED:
                _check_compressed(content[start:stop], name, order)
            elif kind == MI_MATRIX and _Matrix(content, start, stop, order).name == name:
                _Matrix(content, start, stop, order).check()
            position = stop


def _check_compressed(packed: bytes, name: str, order: str) -> None:
    """Unpack a variable, the whole of it only if it is the one asked for."""
    begin = zlib.decompressobj().decompress(packed, 1024)
    if _Matrix(begin, 8, len(begin), order).name != name:
        return
    content = zlib.decompress(packed)
    kind, n_bytes = struct.unpack_from(f"{order}II", content, 0)
    if kind != MI_MATRIX or n_bytes + 8 > len(content):
        raise DamagedElementError(f"a compressed element of type {kind} and {n_bytes} bytes in {len(content)}")
    _Matrix(content, 8, 8 + n_bytes, order).check()


class _Matrix:
    """A matrix element: its flags, shape and name, and where the rest begins."""

    def __init__(self, content: Buffer, start: int, stop: int, order: str) -> None:
        self.content, self.order, self.stop = content, order, stop
        if stop == start:  # an empty cell
            self.kind, self.is_complex, self.n_values, self.name, self.at = 6, False, 0, "", stop
            return
        at, n_bytes, after = self._tag(start, {MI_UINT32})
        flags = struct.unpack_from(f"{order}I", content, at)[0]
        self.kind, self.is_complex = flags & 0xFF, bool(flags & COMPLEX_FLAG)
        at, n_bytes, after = self._tag(after, {MI_INT32})
        shape = struct.unpack_from(f"{order}{n_bytes // 4}i", content, at)
        if len(shape) < 2 or min(shape) < 0:
            raise DamagedElementError(f"an array of shape {shape}")
        self.n_values = 1
        for size in shape:
            self.n_values *= size
        at, n_bytes, self.at = self._tag(after, {MI_INT8})
        self.name = content[at : at + n_bytes].decode("latin-1")

    def check(self, depth: int = 0) -> None:
        """Check what the matrix holds."""
        if depth > MOST_NESTED:
            raise DamagedElementError(f"cells and structs in one another, {depth} deep")
        if self.kind in NUMERIC:
            for _ in range(1 + self.is_complex):
                self._check_numbers()
        elif self.kind == CHARACTERS and self.at < self.stop:
            self._tag(self.at, TEXT_TYPES)
        elif self.kind in (CELL, STRUCT):
            n_fields = self._skip_field_names() if self.kind == STRUCT else 1
            for _ in range(self.n_values * n_fields):
                start, n_bytes, self.at = self._tag(self.at, {MI_MATRIX})
                _Matrix(self.content, start, start + n_bytes, self.order).check(depth + 1)

    def _check_numbers(self) -> None:
        if self.at == self.stop and self.n_values == 0:
            return
        kind = self._peek(self.at)[0]
        _, n_bytes, self.at = self._tag(self.at, set(BYTES_OF_NUMBER))
        if n_bytes != self.n_values * BYTES_OF_NUMBER[kind]:
            raise DamagedElementError(f"{n_bytes} bytes of type {kind} for {self.n_values} values")

    def _skip_field_names(self) -> int:
        """Give the number of fields."""
        at, _, after = self._tag(self.at, {MI_INT32})
        length = struct.unpack_from(f"{self.order}i", self.content, at)[0]
        _, n_bytes, self.at = self._tag(after, {MI_INT8})
        if length < 1 or n_bytes % length:
            raise DamagedElementError(f"{n_bytes} bytes of names of {length} each")
        return n_bytes // length

    def _peek(self, position: int) -> tuple[int, int, int]:
        """Read a tag: type, number of bytes, and where they begin."""
        if position + 8 > self.stop:
            raise DamagedElementError("an element that ends before its parts do")
        first, second = struct.unpack_from(f"{self.order}II", self.content, position)
        # Up to 4 bytes lie in the tag itself: their number is in the upper half of the first word.
        return (first & 0xFFFF, first >> 16, position + 4) if first >> 16 else (first, second, position + 8)

    def _tag(self, position: int, types: set[int]) -> tuple[int, int, int]:
        """Check a tag; give where its bytes begin, their number, and where the next tag is."""
        kind, n_bytes, start = self._peek(position)
        is_small = start == position + 4
        if kind not in types or (is_small and n_bytes > 4) or start + n_bytes > self.stop:
            raise DamagedElementError(f"{n_bytes} bytes of type {kind} where types {sorted(types)} fit")
        after = position + 8 if is_small else start + -(-n_bytes // 8) * 8
        return start, n_bytes, min(after, self.stop)
