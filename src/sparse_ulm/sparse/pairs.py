"""The kernel map: which input row meets which output row at which tap."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor

from sparse_ulm.sparse import loops


@dataclass(frozen=True)
class Pairs:
    """Pairs of input and output rows, tap after tap; both rows ascend within a tap, since sites lie in key order.

    A submanifold kernel is its own mirror: input i and output j meet at tap k exactly where input j and output i meet
    at tap K - 1 - k. Only the first half and the centre are stored then, and `swap` tells which taps read the lists
    the other way round: 4 bytes per pair, against 4 per site *and tap* of a table.

    Attributes:
        inputs: (stored pairs,) int32 rows of inputs.
        outputs: (stored pairs,) int32 rows of outputs.
        segments: Per tap, in the order of the parameter, where its pairs start and stop in these lists.
        swap: Per tap, whether `inputs` holds its outputs and `outputs` its inputs.
        n_inputs: Rows of the input.
        n_outputs: Rows of the output.
        centre: Tap that joins every row with itself; None where there is no such tap.
    """

    inputs: Tensor
    outputs: Tensor
    segments: tuple[tuple[int, int], ...]
    swap: tuple[bool, ...]
    n_inputs: int
    n_outputs: int
    centre: int | None = None
    _bounds: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @property
    def n_taps(self) -> int:
        """Taps of the kernel."""
        return len(self.segments)

    @cached_property
    def swapped(self) -> "Pairs":
        """The same pairs with inputs and outputs exchanged: the way of the gradient, and of a transposed layer."""
        return Pairs(self.outputs, self.inputs, self.segments, self.swap, self.n_outputs, self.n_inputs, self.centre)

    def taps(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Give (tap, input rows, output rows) for every tap that joins any; one tensor twice for the centre."""
        for tap, ((start, stop), swap) in enumerate(zip(self.segments, self.swap, strict=True)):
            if stop > start:
                first = self.inputs[start:stop]
                second = first if tap == self.centre else self.outputs[start:stop]
                yield (tap, second, first) if swap else (tap, first, second)

    def bounds(self, block: int) -> np.ndarray:
        """Give (blocks + 1, taps): where, in the lists, the pairs begin whose output row is in a block of rows."""
        if block not in self._bounds:
            bounds = np.empty((-(-self.n_outputs // block) + 1, self.n_taps), np.int64)
            rows = self.inputs.numpy(), self.outputs.numpy()
            loops.find_bounds(*rows, np.array(self.segments), np.array(self.swap), block, bounds)
            self._bounds[block] = bounds
        return self._bounds[block]
