"""The sparse tensor: sites in key order, their features, and the maps shared by all tensors at the same sites."""

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_ulm.conventions import Coordinates, Features
from sparse_ulm.errors import UserError
from sparse_ulm.sparse.engines import resolve_engine
from sparse_ulm.sparse.keys import is_increasing, site_keys

if TYPE_CHECKING:
    from sparse_ulm.sparse.kept import Rebuild

SpatialRange = tuple[int, int, int, int, int]
Stride = tuple[int | Fraction, int | Fraction, int | Fraction, int | Fraction]

COLUMNS = 5
LARGEST_RANGE = 2**31


class SparseTensor:
    """Features at some sites of a (batch, x, y, z, t) grid.

    A value: methods give new tensors, nothing changes in place; pickling and copying keep the maps.

    Attribute names are TorchSparse's. Rows lie in key order, (b, x, y, z, t) lexicographic, each site once.

    Attributes:
        coords: (sites, 5) int32, contiguous: batch, x, y, z, t; divided by the stride, not multiples of it.
        feats: (sites, channels) floating point, on the device of `coords`.
        stride: Cells of the input grid that one site spans along (x, y, z, t); a Fraction on a refined grid.
        spatial_range: (B, X, Y, Z, T) cells of the grid at this stride; every site lies inside.
        engine: "native" or "torchsparse".
        maps: Kernel maps and coarser levels of these sites, built on first use, shared by `with_feats`.
        rebuild: How a layer can make `feats` again in its backward pass, in place of keeping them; None if it cannot.
    """

    __slots__ = ("coords", "engine", "feats", "maps", "rebuild", "spatial_range", "stride")

    coords: Tensor
    feats: Tensor
    stride: Stride
    spatial_range: SpatialRange
    engine: str
    maps: dict[tuple[Any, ...], Any]
    rebuild: "Rebuild | None"

    def __init__(
        self,
        coords: Int[Tensor, "sites columns"],
        feats: Float[Tensor, "rows channels"],
        *,
        spatial_range: SpatialRange,
        stride: Stride = (1, 1, 1, 1),
        engine: str = "native",
    ) -> None:
        """Check the sites and sort them by key, features along with them.

        Args:
            coords: (sites, 5) integers (batch, x, y, z, t), any row order.
            feats: (sites, channels).
            spatial_range: (B, X, Y, Z, T) cells at this stride.
            stride: Input cells per site along (x, y, z, t).
            engine: "native", "torchsparse" or "auto".

        Raises:
            UserError: If columns or devices do not fit, or a site is negative, outside the range or there twice.
        """
        _check_shape(coords, feats, spatial_range)
        _check_inside(coords, spatial_range)
        keys = site_keys(coords, spatial_range)
        if not is_increasing(keys):
            keys, order = torch.sort(keys)
            if not is_increasing(keys):
                twice = coords[order[1:][keys[1:] == keys[:-1]][0]].tolist()
                raise UserError(
                    f"site {twice} (batch, x, y, z, t) appears more than once; wanted unique sites. "
                    "Merge duplicates before making the sparse tensor."
                )
            coords, feats = coords[order], feats[order]
        object.__setattr__(self, "coords", coords.to(torch.int32).contiguous())
        object.__setattr__(self, "feats", feats)
        object.__setattr__(self, "stride", tuple(stride))
        object.__setattr__(self, "spatial_range", tuple(int(cells) for cells in spatial_range))
        object.__setattr__(self, "engine", resolve_engine(engine))
        object.__setattr__(self, "maps", {})
        object.__setattr__(self, "rebuild", None)

    @classmethod
    def trusted(
        cls,
        coords: Coordinates,
        feats: Features,
        *,
        spatial_range: SpatialRange,
        stride: Stride,
        engine: str,
        maps: dict[tuple[Any, ...], Any] | None = None,
        rebuild: "Rebuild | None" = None,
    ) -> "SparseTensor":
        """Build without checks from rows known to be sorted, unique and inside the range; for layers and engines.

        Args:
            coords: (sites, 5) int32, contiguous, in key order.
            feats: (sites, channels).
            spatial_range: (B, X, Y, Z, T) cells at this stride.
            stride: Input cells per site.
            engine: A resolved name.
            maps: The cache of these very sites; a new one if None.
            rebuild: How to make `feats` again.
        """
        tensor = cls.__new__(cls)
        values = (coords, engine, feats, {} if maps is None else maps, rebuild, spatial_range, stride)
        for name, value in zip(cls.__slots__, values, strict=True):
            object.__setattr__(tensor, name, value)
        return tensor

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse changes: other tensors share the sites and maps."""
        raise AttributeError(f"SparseTensor.{name} cannot be set; use with_feats, with_engine or to for a new tensor")

    def __reduce__(self) -> tuple[Any, ...]:
        """Make again through `trusted`, for data-loader workers and copies."""
        return _unpickled, tuple(getattr(self, name) for name in self.__slots__)

    def __len__(self) -> int:
        """Give the number of sites."""
        return self.coords.shape[0]

    def __repr__(self) -> str:
        """Name sizes, not values."""
        return (
            f"SparseTensor({len(self)} sites, {self.feats.shape[1]} channels, spatial_range={self.spatial_range}, "
            f"stride={tuple(map(str, self.stride))}, engine={self.engine!r})"
        )

    @property
    def batch_size(self) -> int:
        """Number of samples, those without sites included."""
        return self.spatial_range[0]

    @property
    def device(self) -> torch.device:
        """Device of sites and features."""
        return self.coords.device

    def with_feats(self, feats: Float[Tensor, "rows channels"], rebuild: "Rebuild | None" = None) -> "SparseTensor":
        """Give the tensor with other features at the same sites; sites and maps are shared, not checked again.

        Args:
            feats: One row per site.
            rebuild: How to make them again, where the layer that made them knows.

        Raises:
            UserError: If there is not one row per site.
        """
        if feats.shape[0] != len(self):
            raise UserError(
                f"features have {feats.shape[0]} rows for {len(self)} sites; wanted one row per site. "
                "Use prune to drop sites."
            )
        return self._copy(feats=feats, rebuild=rebuild)

    def with_engine(self, name: str) -> "SparseTensor":
        """Give the same tensor computed on by another engine ("auto", "native" or "torchsparse").

        Raises:
            UserError: If the engine is unknown or cannot be imported.
        """
        return self._copy(engine=resolve_engine(name))

    def to(self, device: torch.device | str) -> "SparseTensor":
        """Give the tensor on `device`; maps are built anew there."""
        device = torch.device(device)
        return self._copy(coords=self.coords.to(device), feats=self.feats.to(device), maps={}, rebuild=None)

    def _copy(self, **changes: Any) -> "SparseTensor":
        """Give a tensor with some attributes replaced."""
        return SparseTensor.trusted(**{name: changes.get(name, getattr(self, name)) for name in self.__slots__})


def as_sparse_tensor(x: Any) -> SparseTensor:
    """Take our tensor as it is, and a torchsparse.SparseTensor made by `ToSparseTensord` back into ours."""
    if isinstance(x, SparseTensor):
        return x
    from sparse_ulm.sparse.engines.torchsparse_engine import from_torchsparse

    return from_torchsparse(x)


def _unpickled(*values: Any) -> SparseTensor:
    """Undo `SparseTensor.__reduce__`."""
    return SparseTensor.trusted(**dict(zip(SparseTensor.__slots__, values, strict=True)))


def divided_stride(stride: Stride, factor: tuple[int, int, int, int]) -> Stride:
    """Give the stride of a grid refined by `factor`: whole numbers where they are whole, else Fractions."""
    exact = [Fraction(step) / finer for step, finer in zip(stride, factor, strict=True)]
    return tuple(step.numerator if step.denominator == 1 else step for step in exact)  # type: ignore[return-value]


def check_range(spatial_range: tuple[int, ...]) -> None:
    """Refuse a grid whose coordinates do not fit 32 bits, along any axis."""
    if any(cells > LARGEST_RANGE for cells in spatial_range):
        raise UserError(
            f"spatial_range is {tuple(spatial_range)} (batch, x, y, z, t); wanted at most 2**31 cells along an axis. "
            "Split the recording into blocks."
        )


def _check_shape(coords: Tensor, feats: Tensor, spatial_range: tuple[int, ...]) -> None:
    """Refuse tensors whose shapes or devices do not belong together."""
    if coords.shape[1] != COLUMNS or len(spatial_range) != COLUMNS:
        raise UserError(
            f"coords have {coords.shape[1]} columns and spatial_range {len(spatial_range)} entries; wanted 5 and 5, "
            "(batch, x, y, z, t). Give a volume one frame and a 2D recording one voxel along y."
        )
    if coords.shape[0] != feats.shape[0] or coords.device != feats.device:
        raise UserError(
            f"coords have {coords.shape[0]} rows on {coords.device}, feats {feats.shape[0]} on {feats.device}; "
            "wanted one row each per site on one device."
        )
    check_range(spatial_range)


def _check_inside(coords: Tensor, spatial_range: tuple[int, ...]) -> None:
    """Refuse sites outside 0 ... range - 1."""
    if coords.shape[0] == 0:
        return
    lowest, highest = torch.aminmax(coords, dim=0)
    extent = torch.tensor(spatial_range, device=coords.device)
    if bool((lowest < 0).any()):
        raise UserError(
            f"lowest coordinates are {lowest.tolist()} (batch, x, y, z, t); wanted none below 0. "
            "Shift the sites into the grid."
        )
    if bool((highest >= extent).any()):
        raise UserError(
            f"highest coordinates are {highest.tolist()} in spatial_range {tuple(spatial_range)}; wanted each below "
            "its range. Give the range of the whole grid (batch, x, y, z, t)."
        )
