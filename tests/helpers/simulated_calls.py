"""Tensors of simulated CUDA devices, and the calls of torch that move them or look into them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map

from helpers.simulated_streams import Memory, Stream

if TYPE_CHECKING:
    from helpers.simulated_cuda import Machine

Call = Callable[..., Any]


class SimulatedTensor(Tensor):
    """A tensor of a simulated device around one of the processor."""

    machine: ClassVar[Machine]
    inner: Tensor
    memory: Memory

    @classmethod
    def __torch_function__(cls, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return cls.machine.call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} met a simulated tensor beside the machine")

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        """Let freed memory wait for that stream too."""
        self.memory.recorded.add(stream)


def written(func: Call, args: Any, kwargs: Any) -> list[SimulatedTensor]:
    """The tensors that a function writes to: names of those that do end as PyTorch's do."""
    name = getattr(func, "__name__", "")
    out = tree_flatten(kwargs.get("out"))[0]
    if (name.endswith("_") and not name.endswith("__")) or name.startswith("__i") or name == "__setitem__":
        out += tree_flatten(args[:1])[0]
    return [each for each in out if isinstance(each, SimulatedTensor)]


def bare(value: Any) -> Any:
    """The processor's tensor in a simulated one; all else as it is."""
    return value.inner if isinstance(value, SimulatedTensor) else value


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor, without asking the machine; single numbers have none."""
    with torch._C.DisableTorchFunction():
        return tuple(tensor.shape)


# Index tensors may lie on the host, and sizes may come from anywhere.
INDEXING = {"__getitem__", "__setitem__", "index_put_", "expand_as", "view_as", "type_as"}
# What asks for a tensor's form touches none of its numbers.
LOOKS = {"__get__", "size", "dim", "stride", "numel", "element_size", "is_pinned", "untyped_storage"}


def moved(machine: Machine, tensor: Tensor, device: Any, dtype: Any, blocking: bool, again: bool) -> Tensor:
    """A tensor on a device and in a dtype: itself where nothing is to be done."""
    here = tensor.memory.device if isinstance(tensor, SimulatedTensor) else torch.device("cpu")
    there = here if device is None else torch.device(device)
    if there.type == "cuda":
        there = torch.device("cuda", machine.index_of(there))
    inner = bare(tensor)
    if there == here:
        changed = machine.plain(Tensor.to, (inner, dtype or inner.dtype), {"copy": again})
        if changed is inner:
            return tensor
        return changed if here.type == "cpu" else copied(machine, inner, changed, here, here, True)
    kind = dtype or inner.dtype
    if machine.shapes and there.type == "cpu":
        changed = torch.ones(shape_of(inner), dtype=kind)
    else:
        where = {"device": "meta"} if machine.shapes else {}
        changed = machine.plain(Tensor.to, (inner,), {"dtype": kind, "copy": True, **where})
    return copied(machine, inner, changed, here, there, blocking)


def copied(
    machine: Machine,
    source: Tensor,
    target: Tensor,
    here: torch.device,
    there: torch.device,
    blocking: bool,
) -> Tensor:
    """Queue the copy of a tensor between devices and keep account of who waits for it; the copy."""
    stream = machine.current_stream(there if there.type == "cuda" else here)
    stream.clock += 1
    if here.type == "cuda":
        if there.type == "cuda":  # both devices' streams wait for a copy between them
            stream.wait_stream(machine.current_stream(here))
            machine.current_stream(here).wait_stream(stream)
        machine.reads(stream, machine._memories[source.untyped_storage()._cdata])
    else:
        pinned = machine.pinned_memory(source)
        if pinned is not None and blocking is False:
            machine.reads(stream, pinned)
        else:
            machine.host_uses(moved, (source,), {})
    if there.type == "cuda":
        return machine.on(target, there, {})
    stream.synchronize()
    return target


def to(machine: Machine, func: Call, args: Any, kwargs: Any) -> Any:
    """`Tensor.to`, in all its forms."""
    tensor, *rest = args
    copy = kwargs.pop("copy", False)
    other = kwargs.pop("other", rest[0] if rest and isinstance(rest[0], Tensor) else None)
    if other is not None:
        device = other.memory.device if isinstance(other, SimulatedTensor) else torch.device("cpu")
        return moved(machine, tensor, device, bare(other).dtype, not kwargs.get("non_blocking", False), copy)
    memory_format = kwargs.pop("memory_format", None)
    device, dtype, non_blocking, _ = torch._C._nn._parse_to(*rest, **kwargs)
    made = moved(machine, tensor, device, dtype, not non_blocking, copy)
    if memory_format in (None, torch.preserve_format):
        return made
    return made.contiguous(memory_format=memory_format)


def cpu(machine: Machine, func: Call, args: Any, kwargs: Any) -> Tensor:
    """`Tensor.cpu`."""
    return moved(machine, args[0], "cpu", None, True, False)


def cuda(machine: Machine, func: Call, args: Any, kwargs: Any) -> Tensor:
    """`Tensor.cuda`."""
    return moved(machine, args[0], torch.device("cuda", machine.index_of(*args[1:2])), None, True, False)


def copy_(machine: Machine, func: Call, args: Any, kwargs: Any) -> Tensor:
    """`Tensor.copy_`, between devices too."""
    target, source, *rest = args
    non_blocking = kwargs.get("non_blocking", rest[0] if rest else False)
    devices = [
        each.memory.device if isinstance(each, SimulatedTensor) else torch.device("cpu")
        for each in (target, source)
    ]
    there, here = devices
    if there.type == here.type == "cpu":
        machine.host_uses(func, args, kwargs)
        return machine.plain(func, args, kwargs)
    stream = machine.current_stream(there if there.type == "cuda" else here)
    stream.clock += 1
    pinned = [None if isinstance(each, SimulatedTensor) else machine.pinned_memory(each) for each in args[:2]]
    if isinstance(source, SimulatedTensor):
        machine.reads(stream, source.memory)
    elif pinned[1] is not None:
        machine.reads(stream, pinned[1])
    if not machine.shapes:
        machine.plain(func, (bare(target), bare(source)), {})
    if isinstance(target, SimulatedTensor):
        machine.writes(stream, target.memory)
    elif pinned[0] is not None and non_blocking:
        machine.writes(stream, pinned[0])
    else:
        stream.synchronize()
    if not non_blocking:
        stream.synchronize()
    return target


def waited(machine: Machine, func: Call, args: Any, kwargs: Any) -> Any:
    """Numbers of a tensor for the host, which waits for them."""
    tensor = args[0]
    if isinstance(tensor, SimulatedTensor):
        stream = machine.current_stream(tensor.memory.device)
        machine.reads(stream, tensor.memory)
        stream.synchronize()
        if machine.shapes:
            args = (torch.ones(shape_of(tensor), dtype=tensor.dtype), *args[1:])
    else:
        machine.host_uses(func, args, kwargs)
    return machine.plain(func, tree_map(bare, args), tree_map(bare, kwargs))


def numpy(machine: Machine, func: Call, args: Any, kwargs: Any) -> Any:
    """`Tensor.numpy`, which devices do not have."""
    if isinstance(args[0], SimulatedTensor):
        raise TypeError("can't convert cuda device type tensor to numpy. Use Tensor.cpu() first.")
    machine.host_uses(func, args, kwargs)
    return machine.plain(func, args, kwargs)


def empty(machine: Machine, func: Call, args: Any, kwargs: Any) -> Any:
    """`torch.empty` and its like, on the host pinned or not, or on a device."""
    device = kwargs.get("device")
    if device is not None and torch.device(device).type == "cuda":
        return machine.made(func, args, kwargs, torch.device("cuda", machine.index_of(device)))
    like = [each for each in args[:1] if isinstance(each, SimulatedTensor)]
    if like and device is None:
        return machine.made(func, args, kwargs, like[0].memory.device)
    pinned = kwargs.pop("pin_memory", False)
    made = machine.plain(func, args, kwargs)
    return pin(machine, made) if pinned else made


def pin(machine: Machine, tensor: Tensor) -> Tensor:
    """A host tensor whose memory is known to be pinned from now on, for as long as it lives."""
    memory = Memory(machine, torch.device("cpu"), 0, machine.host)
    machine._memories[tensor.untyped_storage()._cdata] = memory
    tensor.__dict__["memory"] = memory
    return tensor


def pin_memory(machine: Machine, func: Call, args: Any, kwargs: Any) -> Tensor:
    """`Tensor.pin_memory`."""
    return pin(machine, machine.plain(Tensor.clone, args[:1], {}))


def is_pinned(machine: Machine, func: Call, args: Any, kwargs: Any) -> bool:
    """`Tensor.is_pinned`."""
    return not isinstance(args[0], SimulatedTensor) and machine.pinned_memory(args[0]) is not None


def device_of(machine: Machine, func: Call, args: Any, kwargs: Any) -> torch.device:
    """`Tensor.device`."""
    return args[0].memory.device if isinstance(args[0], SimulatedTensor) else torch.device("cpu")


def is_cuda(machine: Machine, func: Call, args: Any, kwargs: Any) -> bool:
    """`Tensor.is_cuda`."""
    return isinstance(args[0], SimulatedTensor)


def from_numbers(machine: Machine, func: Call, args: Any, kwargs: Any) -> Any:
    """`torch.tensor` and `torch.as_tensor`: made on the host, then brought to the device."""
    device = kwargs.pop("device", None)
    if isinstance(args[0], SimulatedTensor):
        device = device or args[0].memory.device
    made = machine.plain(func, tree_map(bare, args), kwargs)
    return made if device is None else moved(machine, made, device, None, True, False)


def deepcopied(machine: Machine, func: Call, args: Any, kwargs: Any) -> Tensor:
    """`copy.deepcopy`, without looking through all that it has copied before."""
    tensor = args[0]
    if not isinstance(tensor, SimulatedTensor):
        return machine.plain(func, (tensor, {}), kwargs)
    made = tensor.detach().clone()
    return torch.nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, torch.nn.Parameter) else made


def set_data(machine: Machine, func: Call, args: Any, kwargs: Any) -> None:
    """`tensor.data = other`."""
    raise NotImplementedError("modules are moved by new parameters here, not by new data in old ones")


SPECIAL: dict[Any, Callable[[Machine, Call, Any, Any], Any]] = {
    **dict.fromkeys(("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal"), waited),
    **dict.fromkeys(("allclose", "is_nonzero", "__contains__", "__repr__", "__format__"), waited),
    **dict.fromkeys(("empty", "empty_strided", "empty_like"), empty),
    **{each.__name__: each for each in (to, cpu, cuda, copy_, numpy, pin_memory, is_pinned)},
    **dict.fromkeys(("tensor", "as_tensor", "asarray"), from_numbers),
    "__deepcopy__": deepcopied,
    "_has_compatible_shallow_copy_type": lambda machine, func, args, kwargs: False,
    "_parse_to": lambda machine, func, args, kwargs: machine.plain(func, args, kwargs),
    Tensor.device.__get__: device_of,
    Tensor.is_cuda.__get__: is_cuda,
    Tensor.data.__set__: set_data,
}
