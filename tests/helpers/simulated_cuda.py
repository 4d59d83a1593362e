"""CUDA devices that are not there: tensors of the processor that behave as a GPU's would.

    with simulated_cuda(capacity=6 << 30, count=2) as machine:
        dehazexl_cli.dehaze(picture, device="cuda:0")
    machine.peak_bytes

Inside, `torch.cuda` has that many devices. A tensor on one of them is a wrapper around a tensor of the
processor, and every call of torch that meets it is checked as a GPU would check it:

- tensors of different devices do not meet, but for single numbers and indices;
- memory that tensors hold is counted by storage, and beyond the capacity an allocation raises
  `torch.OutOfMemoryError`; what kernels need besides, and the allocator's rounding, is not counted;
- each stream runs by itself: what one stream wrote another may read only after it has waited for it, what the
  host gets by a copy that does not block it may read only after it has waited, and memory that another stream
  still reads must not be freed. Whoever does any of these gets a `StreamError`.

Arithmetic is the processor's in the dtype asked for, gradients and autocast included.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

ROUNDING = 512  # bytes: what CUDA's allocator gives at least, and rounds to

Call = Callable[..., Any]


class StreamError(RuntimeError):
    """Something was read, written or freed before what had to come first had ended."""


class Stream:
    """A queue of work. Its clock counts what was queued; `seen` says how far it waited for each other one."""

    def __init__(self, machine: Machine, device: torch.device) -> None:
        self.machine, self.device = machine, device
        self.clock = 0
        self.seen: dict[Stream, int] = {}

    def wait_stream(self, other: Stream) -> None:
        """Begin what is queued next when all is done that is queued there now."""
        self.see(other, other.clock)

    def wait_event(self, event: Event) -> None:
        """Begin what is queued next when the event has come."""
        self.see(event.stream, event.clock)

    def synchronize(self) -> None:
        """Let the host wait for all that is queued."""
        self.machine.host.see(self, self.clock)

    def record_event(self, event: Event | None = None) -> Event:
        """Note how far the queue has grown."""
        event = event or Event()
        event.record(self)
        return event

    def see(self, other: Stream, clock: int) -> None:
        """Know that another stream's work is done up to a clock, and what that knew."""
        for stream, known in {**other.seen, other: clock}.items():
            self.seen[stream] = max(known, self.seen.get(stream, 0))

    def knows(self, mark: tuple[Stream, int] | None) -> bool:
        """Whether work that was marked has ended for sure when this stream goes on."""
        return mark is None or mark[0] is self or self.seen.get(mark[0], 0) >= mark[1]


class Event:
    """A mark in a stream."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.stream: Stream | None = None
        self.clock = 0

    def record(self, stream: Stream | None = None) -> None:
        """Mark what is queued up to now."""
        self.stream = stream or torch.cuda.current_stream()
        self.clock = self.stream.clock

    def synchronize(self) -> None:
        """Let the host wait for it."""
        assert self.stream is not None
        self.stream.machine.host.see(self.stream, self.clock)

    def query(self) -> bool:
        """Whether the host knows that it has come."""
        return self.stream is None or self.stream.machine.host.knows((self.stream, self.clock))


class Memory:
    """A storage, of a device or pinned on the host: who wrote it last, who read it since, what it takes."""

    def __init__(self, machine: Machine, device: torch.device, size: int, stream: Stream) -> None:
        self.machine, self.device, self.size, self.stream = machine, device, size, stream
        self.written: tuple[Stream, int] | None = None
        self.read: dict[Stream, int] = {}
        self.recorded: set[Stream] = set()  # streams for whose work freed memory waits

    def __del__(self) -> None:
        if self.device.type != "cuda":
            return  # pinned memory is not used anew before its copies have ended
        self.machine.live_bytes[self.device.index] -= self.size
        marks = {**self.read, **dict([self.written] if self.written else [])}
        for stream, clock in marks.items():
            if stream not in self.recorded and not self.stream.knows((stream, clock)):
                self.machine.faults.append("memory was freed while another stream still used it")


class SimulatedTensor(Tensor):
    """A tensor of a simulated device around one of the processor."""

    inner: Tensor
    memory: Memory

    @classmethod
    def __torch_function__(cls, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Machine.current.call(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise NotImplementedError(f"{func} met a simulated tensor beside the machine")

    def record_stream(self, stream: Stream) -> None:  # type: ignore[override]
        """Let freed memory wait for that stream too."""
        self.memory.recorded.add(stream)


class Mode(TorchFunctionMode):
    """Lets a thread's calls of torch pass through the machine."""

    def __torch_function__(self, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return Machine.current.call(func, args, kwargs or {})


class Machine:
    """Devices, their memory and streams, and what went wrong on them."""

    current: Machine

    def __init__(self, capacity: int, count: int, bf16: bool = True) -> None:
        self.capacity, self.count, self.bf16 = capacity, count, bf16
        self.live_bytes = [0] * count
        self.peak_bytes = [0] * count
        self.faults: list[str] = []
        self.defaults = [Stream(self, torch.device("cuda", index)) for index in range(count)]
        self.host = Stream(self, torch.device("cpu"))
        self._local = threading.local()
        self._memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
        self._lock = threading.RLock()

    # Streams

    @property
    def _streams(self) -> dict[int, Stream]:
        """Of this thread: the stream of each device that work is queued in."""
        if not hasattr(self._local, "streams"):
            self._local.streams = dict(enumerate(self.defaults))
        streams: dict[int, Stream] = self._local.streams
        return streams

    def current_stream(self, device: Any = None) -> Stream:
        """The stream that this thread's work on a device is queued in."""
        return self._streams[self.index_of(device)]

    @contextlib.contextmanager
    def within(self, stream: Stream) -> Iterator[None]:
        """Queue this thread's work in a stream."""
        index = stream.device.index
        before, self._streams[index] = self._streams[index], stream
        yield
        self._streams[index] = before

    def index_of(self, device: Any = None) -> int:
        """The number of a device, however it is named."""
        if device is None or isinstance(device, int):
            return device or 0
        return torch.device(device).index or 0

    # Calls

    def call(self, func: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do what torch would do, on whichever device."""
        with self._lock:
            name = getattr(func, "__name__", "")
            special = SPECIAL.get(func) or SPECIAL.get(name)
            if special is not None:
                return special(self, func, args, kwargs)
            tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, SimulatedTensor)]
            wanted = kwargs.get("device")
            if wanted is not None and torch.device(wanted).type == "cuda":
                return self.made(func, args, kwargs, torch.device("cuda", self.index_of(wanted)))
            if not tensors:
                self.host_uses(func, args, kwargs)
                return self.plain(func, args, kwargs)
            self.refuse_strangers(name, args, kwargs)
            return self.computed(func, args, kwargs, tensors[0].memory.device)

    def plain(self, func: Call, args: Any, kwargs: Any) -> Any:
        """Call torch itself."""
        with torch._C.DisableTorchFunction():
            return func(*args, **kwargs)

    def made(self, func: Call, args: Any, kwargs: Any, device: torch.device) -> Any:
        """A new tensor on a device, of whatever a function makes."""
        self.current_stream(device).clock += 1
        plain = tree_map(bare, (args, {**kwargs, "device": "cpu"}))
        return self.wrapped(self.plain(func, *plain), device, {})

    def computed(self, func: Call, args: Any, kwargs: Any, device: torch.device) -> Any:
        """What a function makes of tensors of a device."""
        stream = self.current_stream(device)
        stream.clock += 1
        found = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, SimulatedTensor)]
        for each in found:
            self.reads(stream, each.memory)
        out = self.plain(func, *tree_map(bare, (args, kwargs)))
        for each in written(func, args, kwargs):
            self.writes(stream, each.memory)
        return self.wrapped(out, device, {id(each.inner): each for each in found})

    def wrapped(self, out: Any, device: torch.device, known: dict[int, SimulatedTensor]) -> Any:
        """What a function gave, its tensors on a device."""
        return tree_map(lambda each: self.on(each, device, known) if isinstance(each, Tensor) else each, out)

    def on(self, inner: Tensor, device: torch.device, known: dict[int, SimulatedTensor]) -> Tensor:
        """A tensor of the processor, as one of a device."""
        if id(inner) in known:
            return known[id(inner)]
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            SimulatedTensor,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )
        made.__dict__.update(inner=inner, memory=self.memory_of(inner, device))
        return made  # type: ignore[no-any-return]

    def memory_of(self, inner: Tensor, device: torch.device) -> Memory:
        """The memory that a tensor lies in, taken from the device if it is new."""
        storage = inner.untyped_storage()
        memory = self._memories.get(storage._cdata)
        if memory is not None and memory.device == device:
            return memory
        stream = self.current_stream(device)
        size = -(-storage.nbytes() // ROUNDING) * ROUNDING
        index = device.index
        if self.live_bytes[index] + size > self.capacity:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes (simulated).")
        memory = Memory(self, device, size, stream)
        memory.written = (stream, stream.clock)
        self.live_bytes[index] += size
        self.peak_bytes[index] = max(self.peak_bytes[index], self.live_bytes[index])
        self._memories[storage._cdata] = memory
        return memory

    # Who may read and write

    def reads(self, stream: Stream, memory: Memory) -> None:
        """Let a stream read; StreamError if it may be before what is read was written."""
        if not stream.knows(memory.written):
            raise StreamError("a stream reads what another has not written yet")
        memory.read[stream] = stream.clock

    def writes(self, stream: Stream, memory: Memory) -> None:
        """Let a stream write; StreamError if others may not have read yet what was there."""
        if not all(stream.knows(mark) for mark in memory.read.items()):
            raise StreamError("a stream writes where another may still be reading")
        memory.written, memory.read = (stream, stream.clock), {}

    def host_uses(self, func: Call, args: Any, kwargs: Any) -> None:
        """StreamError if the host touches pinned memory that is still being copied."""
        for each in tree_flatten((args, kwargs))[0]:
            if not isinstance(each, Tensor) or isinstance(each, SimulatedTensor):
                continue
            with torch._C.DisableTorchFunction():
                pinned = self.pinned_memory(each)
            if pinned is not None and getattr(func, "__name__", "") not in LOOKS:
                if not self.host.knows(pinned.written):
                    raise StreamError("the host reads what is still being copied to it")
                if not all(self.host.knows(mark) for mark in pinned.read.items()):
                    raise StreamError("the host uses memory that is still being copied from")

    def pinned_memory(self, tensor: Tensor) -> Memory | None:
        """What is known of a host tensor's memory, if it is pinned."""
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            return None
        memory = self._memories.get(tensor.untyped_storage()._cdata)
        return memory if memory is not None and memory.device.type == "cpu" else None

    def refuse_strangers(self, name: str, args: Any, kwargs: Any) -> None:
        """RuntimeError where tensors of different devices meet, as CUDA has it."""
        found = {
            str(each.memory.device) if isinstance(each, SimulatedTensor) else "cpu"
            for each in tree_flatten((args, kwargs))[0]
            if isinstance(each, Tensor) and (isinstance(each, SimulatedTensor) or shape_of(each))
        }
        if len(found) > 1 and name not in INDEXING:
            both = " and ".join(sorted(found))
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {both} ({name})")


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
    changed = machine.plain(Tensor.to, (inner,), {"dtype": dtype or inner.dtype, "copy": True})
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


def set_data(machine: Machine, func: Call, args: Any, kwargs: Any) -> None:
    """`tensor.data = other`."""
    raise NotImplementedError("modules are moved by new parameters here, not by new data in old ones")


SPECIAL: dict[Any, Callable[[Machine, Call, Any, Any], Any]] = {
    **dict.fromkeys(("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal"), waited),
    **dict.fromkeys(("allclose", "is_nonzero", "__contains__", "__repr__", "__format__"), waited),
    **dict.fromkeys(("empty", "empty_strided", "empty_like"), empty),
    **{each.__name__: each for each in (to, cpu, cuda, copy_, numpy, pin_memory, is_pinned)},
    **dict.fromkeys(("tensor", "as_tensor", "asarray"), from_numbers),
    "_has_compatible_shallow_copy_type": lambda machine, func, args, kwargs: False,
    "_parse_to": lambda machine, func, args, kwargs: machine.plain(func, args, kwargs),
    Tensor.device.__get__: device_of,
    Tensor.is_cuda.__get__: is_cuda,
    Tensor.data.__set__: set_data,
}


@contextlib.contextmanager
def simulated_cuda(capacity: int = 8 << 30, count: int = 1, bf16: bool = True) -> Iterator[Machine]:
    """Let torch find that many CUDA devices of that many bytes in this process, threads and all.

    Raises StreamError at the end for faults that could not be raised when they happened.
    """
    machine = Machine(capacity, count, bf16)
    run = threading.Thread.run

    def run_in_mode(thread: threading.Thread) -> None:
        with Mode():
            run(thread)

    def used(device: Any = None) -> int:
        return machine.peak_bytes[machine.index_of(device)]

    def free(device: Any = None) -> tuple[int, int]:
        return capacity - machine.live_bytes[machine.index_of(device)], capacity

    properties = SimpleNamespace(
        name="Simulated GPU", total_memory=capacity, major=8 if bf16 else 7, minor=0, multi_processor_count=1
    )
    replaced = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: count,
        "is_bf16_supported": lambda *_, **__: bf16,
        "mem_get_info": lambda device=None: (
            capacity - machine.live_bytes[machine.index_of(device)],
            capacity,
        ),
        "memory_allocated": lambda device=None: machine.live_bytes[machine.index_of(device)],
        "max_memory_allocated": used,
        "max_memory_reserved": used,
        "reset_peak_memory_stats": lambda device=None: machine.peak_bytes.__setitem__(
            machine.index_of(device), machine.live_bytes[machine.index_of(device)]
        ),
        "get_device_properties": lambda device=None: properties,
        "get_device_name": lambda device=None: properties.name,
        "get_device_capability": lambda device=None: (properties.major, properties.minor),
        "empty_cache": lambda: None,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: machine.current_stream(device).synchronize(),
        "current_stream": machine.current_stream,
        "default_stream": lambda device=None: machine.defaults[machine.index_of(device)],
        "Stream": lambda device=None, priority=0: Stream(
            machine, torch.device("cuda", machine.index_of(device))
        ),
        "stream": machine.within,
        "Event": Event,
    }
    load = torch.load

    def load_on_host(file: Any, map_location: Any = None, **others: Any) -> Any:
        found = load(file, map_location="cpu", **others)
        if map_location is None or torch.device(map_location).type == "cpu":
            return found
        return tree_map(lambda each: each.to(map_location) if isinstance(each, Tensor) else each, found)

    overwrite = torch.__future__.get_overwrite_module_params_on_conversion()
    with contextlib.ExitStack() as stack:
        for name, value in replaced.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch.object(torch, "load", load_on_host))
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_in_mode))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        Machine.current = machine
        with Mode():
            yield machine
    if machine.faults:
        raise StreamError("; ".join(sorted(set(machine.faults))))
