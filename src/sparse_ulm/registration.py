"""Two averages of a recording brought upon each other with SimpleITK: a rigid motion, and a smooth one on top of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from jaxtyping import Float, Float32
from numpy.typing import NDArray

from sparse_ulm.conventions import METRES_PER_MM
from sparse_ulm.errors import UserError

LEVELS = ((2, 1.0), (1, 0.5))
"""Shrink factor and smoothing in voxels, coarse to fine. Without the finest smoothing the interpolation of speckle
that is sampled near its Nyquist frequency pulls towards whole voxels."""

MAX_SAMPLES = 60_000
"""Voxels that are compared, by a regular pattern that a fixed seed shakes; all where there are fewer."""

N_ITERATIONS, LARGEST_STEP, SMALLEST_STEP = 60, 0.7, 1.0e-3
"""Of the gradient descent; steps in voxels."""

LATTICE_STEP_VOXELS = 4
"""Distance of the nodes at which a non-rigid motion is kept, at most: it is smoother than that."""

DEMONS_SMOOTHING_VOXELS, N_DEMONS_ITERATIONS = 2.0, 50
"""Standard deviation of the Gaussian that smooths the field at every iteration, and their number."""

Volume = Float32[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Registered:
    """A window upon the reference.

    Attributes:
        displacement_voxel: Place of the material of each node in the window minus that in the reference, in voxels.
        correlation: Of the two averages after the rigid motion, 0 to 1.
        parameters: Of the rigid motion, to start a neighbour from.
    """

    displacement_voxel: Float[np.ndarray, "gx gy gz 3"]
    correlation: float
    parameters: tuple[float, ...]


def simpleitk() -> ModuleType:
    """Import SimpleITK.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise UserError(
            'motion needs SimpleITK, which is not installed; wanted it. Run pip install "sparse-ulm[motion]".'
        ) from error
    return SimpleITK


class Registration:
    """Registers averages upon one reference, which is prepared once.

    Lengths inside are millimetres along the grid's axes, since SimpleITK's tolerances suit millimetres. A recording
    one voxel thick along y is registered as a picture of x and z, by a translation.

    Args:
        reference: (x, y, z) average.
        voxel_size_m: Grid step along x, y and z.
        non_rigid: Add a smooth motion, by ITK's diffeomorphic demons. Our choice: in the few
            trials that we made on simulated speckle B-splines were no better overall and took several times as long.
    """

    def __init__(self, reference: Volume, voxel_size_m: tuple[float, float, float], *, non_rigid: bool) -> None:
        """Prepare the reference."""
        self.sitk, self.shape, self.non_rigid = simpleitk(), reference.shape, non_rigid
        self.axes = [0, 1, 2] if self.shape[1] > 1 else [0, 2]
        self.step_mm: NDArray[np.float64] = np.asarray(voxel_size_m)[self.axes] / METRES_PER_MM
        x, y, z = self.shape
        self.nodes_voxel = self._nodes(x), self._nodes(y), self._nodes(z)
        self.reference = self._image(reference)

    def _nodes(self, size: int) -> Float[np.ndarray, " n"]:
        """Voxels that are nodes along an axis: its ends, and for a non-rigid motion some between them."""
        n_nodes = 2 if not self.non_rigid else -(-(size - 1) // LATTICE_STEP_VOXELS) + 1
        return np.unique(np.round(np.linspace(0, size - 1, n_nodes)))

    def _image(self, average: Volume) -> Any:
        turned = average.transpose(2, 1, 0) if len(self.axes) == 3 else average[:, 0, :].T
        image = self.sitk.GetImageFromArray(np.ascontiguousarray(turned, dtype=np.float32))
        image.SetSpacing(self.step_mm.tolist())
        return image

    def register(self, average: Volume, *, start: tuple[float, ...] | None = None) -> Registered:
        """Register one window's average upon the reference.

        Args:
            average: As large as the reference.
            start: Parameters of the rigid motion that the search starts from; None for no motion.

        Raises:
            RuntimeError: If SimpleITK finds no overlap.
        """
        moving = self._image(average)
        with _one_quiet_thread(self.sitk):
            rigid, correlation = self._rigid(moving, start)
            smooth = self._smooth(moving, rigid) if self.non_rigid else None
        return Registered(self._displacement(rigid, smooth), correlation, tuple(rigid.GetParameters()))

    def _rigid(self, moving: Any, start: tuple[float, ...] | None) -> tuple[Any, float]:
        sitk = self.sitk
        transform = sitk.Euler3DTransform() if len(self.axes) == 3 else sitk.TranslationTransform(2)
        if len(self.axes) == 3:
            middle_mm = 0.5 * (np.asarray(self.shape) - 1) * self.step_mm
            transform.SetCenter(middle_mm.tolist())
        if start is not None:
            transform.SetParameters(start)
        method, step_mm = sitk.ImageRegistrationMethod(), float(self.step_mm.mean())
        method.SetMetricAsCorrelation()
        # The gradients of ITK's filters belong to smoother images than those that are compared.
        method.MetricUseFixedImageGradientFilterOff()
        method.MetricUseMovingImageGradientFilterOff()
        n_voxels = int(np.prod(self.shape))
        if n_voxels > MAX_SAMPLES:
            method.SetMetricSamplingStrategy(method.REGULAR)
            method.SetMetricSamplingPercentage(MAX_SAMPLES / n_voxels, 1)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=LARGEST_STEP * step_mm,
            minStep=SMALLEST_STEP * step_mm,
            numberOfIterations=N_ITERATIONS,
            gradientMagnitudeTolerance=1.0e-12,
            estimateLearningRate=method.Once,
            maximumStepSizeInPhysicalUnits=LARGEST_STEP * step_mm,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        method.SetShrinkFactorsPerLevel([shrink for shrink, _ in LEVELS])
        method.SetSmoothingSigmasPerLevel([smoothing for _, smoothing in LEVELS])
        method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(False)
        method.SetInitialTransform(transform, inPlace=True)
        method.Execute(self.reference, moving)
        # ITK's metric is minus the squared correlation.
        return transform, float(np.sqrt(max(0.0, -method.GetMetricValue())))

    def _smooth(self, moving: Any, rigid: Any) -> NDArray[np.float64]:
        """Give the displacement that is left after the rigid motion, in mm, at all voxels: (x, y, z, axes)."""
        sitk = self.sitk
        # Zeros beyond the edge would pull at the field.
        extended = {"useNearestNeighborExtrapolator": True}
        moved = sitk.Resample(moving, self.reference, rigid, sitk.sitkBSpline3, **extended)
        demons = sitk.DiffeomorphicDemonsRegistrationFilter()
        demons.SetNumberOfIterations(N_DEMONS_ITERATIONS)
        demons.SetStandardDeviations(DEMONS_SMOOTHING_VOXELS)
        demons.SetSmoothDisplacementField(True)
        demons.SetMaximumRMSError(1.0e-4)  # ITK's own 0.02 voxels stops after a few iterations
        field = demons.Execute(sitk.Normalize(self.reference), sitk.Normalize(moved))
        array = sitk.GetArrayFromImage(field)
        return array.transpose(2, 1, 0, 3) if array.ndim == 4 else array.transpose(1, 0, 2)[:, None]

    def _displacement(self, rigid: Any, smooth: NDArray[np.float64] | None) -> Float[np.ndarray, "gx gy gz 3"]:
        """Follow the nodes through the smooth motion, then the rigid one."""
        lattice = np.stack(np.meshgrid(*self.nodes_voxel, indexing="ij"), axis=-1)
        place_mm = lattice[..., self.axes] * self.step_mm
        through = place_mm.copy()
        if smooth is not None:
            i, j, k = np.moveaxis(lattice.astype(int), -1, 0)
            through += smooth[i, j, k]
        points = through.reshape(-1, len(self.axes)).tolist()
        moved = np.array([rigid.TransformPoint(point) for point in points]).reshape(place_mm.shape)
        displacement = np.zeros(lattice.shape)
        displacement[..., self.axes] = (moved - place_mm) / self.step_mm
        return displacement


@contextmanager
def _one_quiet_thread(sitk: ModuleType) -> Iterator[None]:
    """Make sums run in one order, and failures be told by exceptions alone; put back what was."""
    n_threads, warns = (
        sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(),
        sitk.ProcessObject.GetGlobalWarningDisplay(),
    )
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(n_threads)
        sitk.ProcessObject.SetGlobalWarningDisplay(warns)
