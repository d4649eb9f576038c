"""Make one geometry of everything that was stated about a recording, or say all that is missing or contradictory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sparse_ulm.acquisition import Geometry, as_rows
from sparse_ulm.conventions import SPATIAL_AXES
from sparse_ulm.errors import RecordingError
from sparse_ulm.io.names import sidecar_path
from sparse_ulm.io.statements import SCALARS, VOXEL_SIZE, Quantity, Statement, metres

RELATIVE_TOLERANCE = 1.0e-3
"""Two statements that differ by more contradict each other: float32 headers round to 1e-7, mistakes are larger."""

ORIGIN_TOLERANCE_VOXEL = 1.0e-2
"""The same for the origin, in voxels."""


def combine(
    path: Path, stated: Sequence[Statement], *, layout: Statement | None = None
) -> tuple[Geometry, dict[str, str]]:
    """Make one geometry of all statements, or say in one line everything that is missing or contradictory.

    Args:
        path: The recording, for messages and for the name of its sidecar.
        stated: Statements in order of precision: where two agree, the earlier one is used.
        layout: What the file's layout fixes by definition; used only where nobody states anything.

    Returns:
        The geometry, and the source of each quantity.

    Raises:
        RecordingError: If a quantity is missing or not believable, or two sources differ by more than 0.1 %
            (the origin: by 1 % of a voxel).
    """
    choice = _Choice(path, stated, layout)
    sizes = [choice.voxel_size(axis) for axis in range(3)]
    if None in sizes:
        choice.miss(VOXEL_SIZE)
    scalars = {quantity.option: choice.scalar(quantity) for quantity in SCALARS}
    voxel_size_mm = [1.0 if size is None else size for size in sizes]
    origin_mm = choice.origin(voxel_size_mm)
    if choice.problems:
        raise RecordingError(f"{path.name}: {'; '.join(choice.problems)}.")
    directions = next((s.directions for s in stated if s.directions is not None), as_rows(np.eye(3)))
    affine = np.eye(4)
    affine[:3, :3] = np.asarray(directions) * metres(voxel_size_mm)
    affine[:3, 3] = metres(origin_mm)
    return Geometry(as_rows(affine), **{option: value for option, value in scalars.items() if value}), choice.sources


@dataclass
class _Choice:
    """Chooses one value of each quantity, and collects the sources used and the problems met."""

    path: Path
    stated: Sequence[Statement]
    layout: Statement | None
    problems: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)

    def miss(self, quantity: Quantity) -> None:
        """Note what is missing and the two ways to give it."""
        unit = f"[{quantity.unit}, x y z]" if quantity is VOXEL_SIZE else f"[{quantity.unit}]"
        self.problems.append(
            f"{quantity.name} missing, give {quantity.key} {unit} in {sidecar_path(self.path).name} beside it "
            f"or the option {quantity.option}"
        )

    def voxel_size(self, axis: int) -> float | None:
        """Choose the voxel size along one axis, in mm."""
        name = f"voxel size along {SPATIAL_AXES[axis]}"
        stated = [(s.source, s.voxel_size_mm[axis]) for s in self.stated]
        by_definition = [(s.source, s.voxel_size_mm[axis]) for s in (self.layout,) if s]
        return self._choose(VOXEL_SIZE, name, stated, by_definition)

    def scalar(self, quantity: Quantity) -> float | None:
        """Choose a frame rate, frequency or sound speed."""
        stated = [(s.source, getattr(s, quantity.option)) for s in self.stated]
        by_definition = [(s.source, getattr(s, quantity.option)) for s in (self.layout,) if s]
        chosen = self._choose(quantity, quantity.name, stated, by_definition)
        if chosen is None:
            self.miss(quantity)
        return chosen

    def origin(self, voxel_size_mm: Sequence[float]) -> tuple[float, float, float]:
        """Choose the first voxel's position; 0 where nobody states one, since it fixes no more than a zero point."""
        stated = [(s.source, s.origin_mm) for s in self.stated if s.origin_mm is not None]
        if not stated:
            self.sources["origin"] = "not stated: the first voxel's centre lies at 0 mm"
            return 0.0, 0.0, 0.0
        source, origin_mm = stated[0]
        self.sources["origin"] = source
        for other_source, other_mm in stated[1:]:
            away_voxel = np.abs(np.subtract(other_mm, origin_mm)) / np.asarray(voxel_size_mm)
            if away_voxel.max() > ORIGIN_TOLERANCE_VOXEL:
                self.problems.append(
                    f"contradictory origin, {_triple(origin_mm)} mm in {source} but {_triple(other_mm)} mm "
                    f"in {other_source}, correct one"
                )
        return origin_mm

    def _choose(
        self,
        quantity: Quantity,
        name: str,
        stated: list[tuple[str, float | None]],
        by_definition: list[tuple[str, float | None]],
    ) -> float | None:
        """Take the first value; note the others that contradict it and a value that no recording has."""
        values = [(s, v) for s, v in stated if v is not None] or [(s, v) for s, v in by_definition if v is not None]
        if not values:
            return None
        (source, value), others = values[0], values[1:]
        self.sources[name] = source
        for other_source, other in others:
            if abs(other - value) > RELATIVE_TOLERANCE * value:
                self.problems.append(
                    f"contradictory {name}, {value:g} {quantity.unit} in {source} but {other:g} {quantity.unit} "
                    f"in {other_source}, correct one"
                )
        low, high = quantity.believable
        if not low <= value <= high:
            self.problems.append(
                f"{name} is {value:g} {quantity.unit} in {source}, wanted {low:g} to {high:g}, check its unit"
            )
        return value


def _triple(lengths_mm: Sequence[float]) -> str:
    """Write three lengths compactly."""
    return "(" + ", ".join(f"{length:g}" for length in lengths_mm) + ")"
