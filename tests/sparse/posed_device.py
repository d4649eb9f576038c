"""A tensor that poses as one on a GPU, for machines without any: `posed(tensor)` claims to be on cuda:0.

It holds a CPU tensor and runs every operation on it: values and gradients are real. But it is as strict as CUDA:

- what reads its memory from the host is refused: `.cpu()`, `.to("cpu")`, `.numpy()`, `numpy.asarray`, `.data_ptr()`;
- operations that mix it with CPU tensors are refused, but for numbers and indices in brackets, which CUDA takes;
- whatever makes the host wait for the device, or copies to it (indices as well), is written down in a `Ledger`.

A build without CUDA cannot run autograd on CUDA tensors, not even on fake ones (the process aborts for lack of a device
guard), so PyTorch's C++ is told "meta", whose backward pass runs in the calling thread, and Python "cuda:0".
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from sparse_ulm.sparse import SparseTensor

DEVICE = torch.device("cuda:0")

MEMORY = ("numpy", "__array__", "data_ptr", "cpu", "__dlpack__", "__dlpack_device__", "untyped_storage", "storage")
READS_MEMORY = {getattr(Tensor, name) for name in MEMORY}

UNIQUE = ("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive")
VALUES = ("is_nonzero", "equal", "allclose", "nonzero", "masked_select", "bincount", "isin", "repeat_interleave")
SYNCHRONISING = {
    "_local_scalar_dense": "item",
    **dict.fromkeys(UNIQUE, "unique"),
    **{name: name for name in VALUES},
}
"""Operations of aten after which CUDA makes the host wait, as their result is a number for the host or sized by values;
and what the ledger calls them."""

INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_")


class DeviceError(RuntimeError):
    """What a GPU would refuse, or what would copy the data of sites to the host."""


class Ledger:
    """What an operation cost in round trips.

    Attributes:
        syncs: How often each operation made the host wait for the device.
        uploads: How many tensors were copied from the host.
        largest_upload: Elements of the largest of them.
    """

    def __init__(self) -> None:
        self.syncs: Counter[str] = Counter()
        self.uploads = 0
        self.largest_upload = 0

    def uploaded(self, values: Tensor) -> None:
        """Count one copy to the device."""
        self.uploads += 1
        self.largest_upload = max(self.largest_upload, values.numel())


_ledger = Ledger()
_reading_list = False


class PosedTensor(Tensor):
    """The tensor itself; made by `posed`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "PosedTensor":
        """Wrap a plain CPU tensor."""
        wrapper = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device("meta"),
        )
        wrapper.held = held.detach()
        return wrapper

    device = property(lambda self: DEVICE)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, *, tensor_contents: Any = None) -> Any:
        """Show the values."""
        return f"posed({self.held!r})"

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse pickles."""
        raise DeviceError("a tensor on cuda:0 is pickled through the host")

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        """Refuse what reads the memory; let `tolist` pass, and count it."""
        global _reading_list
        if func in READS_MEMORY:
            raise DeviceError(f"{func.__name__} on a tensor of cuda:0")
        if func is Tensor.tolist:
            _ledger.syncs["tolist"] += 1
            return args[0].held.tolist()
        if func is Tensor.new_tensor:
            values = torch.tensor(*args[1:], **{"dtype": args[0].dtype} | (kwargs or {}) | {"device": "cpu"})
            _ledger.uploaded(values)
            return PosedTensor(values).requires_grad_(values.requires_grad)
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], _without_lists(args[1]), *args[2:])
        return super().__torch_function__(func, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run the operation on the held tensors and let the results pose."""
        return _run(func, args, dict(kwargs or {}))


def _without_lists(index: Any) -> Any:
    """Turn lists among the indices into tensors: PyTorch's C++ would leave those of a "meta" tensor unfilled."""
    if isinstance(index, tuple):
        return tuple(_without_lists(part) for part in index)
    return torch.tensor(index) if isinstance(index, list) else index


def _run(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run one operation of aten on the device."""
    _check_devices(func, args, kwargs)
    _count_sync(func, args)
    if kwargs.get("device") is not None:
        kwargs["device"] = "cpu"
    plain_args, plain_kwargs = tree_map_only(PosedTensor, lambda x: x.held, (args, kwargs))
    result = func(*plain_args, **plain_kwargs)
    written = {id(x.held): x for x in tree_leaves((args, kwargs)) if isinstance(x, PosedTensor)}
    return tree_map_only(Tensor, lambda x: written[id(x)] if id(x) in written else PosedTensor(x), result)


def _check_devices(func: Any, args: tuple, kwargs: dict) -> None:
    """Refuse copies to the host and CPU tensors beside posed ones."""
    wanted = kwargs.get("device")
    if wanted is not None and torch.device(wanted).type == "cpu":
        raise DeviceError(f"{func} makes a CPU tensor of one on cuda:0")
    indices = args[1] if func.overloadpacket.__name__ in INDEXING else ()
    for x in indices:
        if x is not None and not isinstance(x, PosedTensor):
            _ledger.uploaded(x)
    known = {id(x) for x in indices}
    for x in tree_leaves((args, kwargs)):
        if isinstance(x, Tensor) and not isinstance(x, PosedTensor) and x.dim() > 0 and id(x) not in known:
            raise DeviceError(f"{func} mixes cuda:0 with a CPU tensor of shape {tuple(x.shape)}")


def _count_sync(func: Any, args: tuple) -> None:
    """Write down operations that make the host wait; a mask as index is `nonzero` in disguise."""
    name = func.overloadpacket.__name__
    if name in SYNCHRONISING:
        _ledger.syncs[SYNCHRONISING[name]] += 1
    if name in INDEXING:
        _ledger.syncs["mask index"] += sum(x.dtype == torch.bool for x in args[1] if x is not None)
        _ledger.syncs += Counter()  # Drops the entry if it is zero.


class _Cuda(TorchFunctionMode):
    """Answer requests for cuda:0 with posed tensors: factories, `torch.tensor`, `.to`, `.cuda`."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.to, Tensor.cuda):
            return self._to(func, args, kwargs)
        if _is_cuda(kwargs.get("device")):
            return self._made(func, args, kwargs)
        return func(*args, **kwargs)

    def _to(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Move to cuda:0; other conversions as they are."""
        x, *rest = args
        targets = [*rest, *kwargs.values()]
        to_cuda = func is Tensor.cuda or any(_is_cuda(value) for value in targets)
        other = [value.device for value in targets if isinstance(value, PosedTensor)]
        if not isinstance(x, PosedTensor) and (to_cuda or other):
            if x.requires_grad:
                raise NotImplementedError("upload of a tensor that needs a gradient")
            _ledger.uploaded(x)
            x = PosedTensor(x.clone())
        if isinstance(x, PosedTensor) and any(_is_cpu(value) for value in targets):
            raise DeviceError("`to` copies a tensor of cuda:0 to the CPU")
        dtypes = [value for value in targets if isinstance(value, torch.dtype)]
        if to_cuda or other:
            dtypes += [value.dtype for value in targets if isinstance(value, PosedTensor)]
            return x.to(dtypes[0]) if dtypes else x
        return func(x, *rest, **kwargs)

    def _made(self, func: Any, args: tuple, kwargs: dict) -> Any:
        """Run a factory on the CPU and let its result pose; what has its values from the host counts as an upload."""
        if any(isinstance(x, PosedTensor) for x in tree_leaves((args, kwargs))):
            return func(*args, **kwargs | {"device": None})  # `new_zeros`, `zeros_like`: there already.
        with torch._C.DisableTorchFunction():
            values = func(*args, **kwargs | {"device": "cpu"})
        if func in (torch.tensor, torch.as_tensor):
            _ledger.uploaded(values)
        return PosedTensor(values).requires_grad_(values.requires_grad)


class _InsideTorch(TorchDispatchMode):
    """Let tensors pose that PyTorch makes of its own on the device it was told, as the scalars of `torch.where`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        on_device = any(isinstance(x, PosedTensor) for x in tree_leaves((args, kwargs)))
        if on_device or kwargs.get("device") == torch.device("meta"):
            return _run(func, args, kwargs)
        return func(*args, **kwargs)


def _is_cuda(value: Any) -> bool:
    """Tell whether an argument names the device."""
    return (isinstance(value, torch.device) and value.type == "cuda") or (
        isinstance(value, str) and value.startswith("cuda")
    )


def _is_cpu(value: Any) -> bool:
    """Tell whether an argument names the host."""
    return (isinstance(value, torch.device) and value.type == "cpu") or value == "cpu"


@contextmanager
def cuda() -> Iterator[Ledger]:
    """Make cuda:0 available inside the block; gives the ledger of what happens there."""
    global _ledger
    before, _ledger = _ledger, Ledger()
    try:
        with _Cuda(), _InsideTorch():
            yield _ledger
    finally:
        _ledger = before


def posed(x: Any) -> Any:
    """Give a copy of a tensor or sparse tensor that poses as one on cuda:0; modules are changed in place."""
    if isinstance(x, SparseTensor):
        return SparseTensor.trusted(
            posed(x.coords), posed(x.feats), spatial_range=x.spatial_range, stride=x.stride, engine=x.engine
        )
    if isinstance(x, nn.Module):
        for module in x.modules():
            for name, parameter in module.named_parameters(recurse=False):
                module._parameters[name] = nn.Parameter(posed(parameter), requires_grad=parameter.requires_grad)
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = posed(buffer)
        return x
    return PosedTensor(x.detach().clone()).requires_grad_(x.requires_grad)


def held(x: Tensor) -> Tensor:
    """Take the values out, to compare them; what does not pose has slipped to the host."""
    if not isinstance(x, PosedTensor):
        raise DeviceError(f"a tensor of shape {tuple(x.shape)} is on {x.device}, not on cuda:0")
    return x.held
