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
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

from helpers.simulated_calls import INDEXING, LOOKS, SPECIAL, Call, SimulatedTensor, bare, shape_of, written
from helpers.simulated_streams import Event, Memory, Stream, StreamError

ROUNDING = 512  # bytes: what CUDA's allocator gives at least, and rounds to


class Mode(TorchFunctionMode):
    """Lets a thread's calls of torch pass through the machine."""

    def __torch_function__(self, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return SimulatedTensor.machine.call(func, args, kwargs or {})


class Machine:
    """Devices, their memory and streams, and what went wrong on them."""

    def __init__(self, capacity: int, count: int, shapes: bool) -> None:
        self.capacity, self.count, self.shapes = capacity, count, shapes
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
        plain = tree_map(bare, (args, {**kwargs, "device": "meta" if self.shapes else "cpu"}))
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


@contextlib.contextmanager
def simulated_cuda(
    capacity: int = 8 << 30, count: int = 1, bf16: bool = True, shapes: bool = False
) -> Iterator[Machine]:
    """Let torch find that many CUDA devices of that many bytes in this process, threads and all.

    With `shapes` tensors of devices have shapes and no numbers: what a run takes, in no time; the host gets
    ones. Raises StreamError at the end for faults that could not be raised when they happened.
    """
    machine = Machine(capacity, count, shapes)
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
        "mem_get_info": free,
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
        # AdamW asks here whether a graph is captured; builds with CUDA would ask the driver.
        stack.enter_context(mock.patch.object(torch.accelerator, "current_accelerator", return_value=None))
        stack.enter_context(mock.patch.object(torch, "load", load_on_host))
        # What is chosen by a mask of which only the shape is known is all there is.
        stack.enter_context(
            mock.patch.object(torch.fx.experimental._config, "meta_nonzero_assume_all_nonzero", shapes)
        )
        stack.enter_context(mock.patch.object(threading.Thread, "run", run_in_mode))
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrite)
        SimulatedTensor.machine = machine
        with Mode():
            yield machine
    if machine.faults:
        raise StreamError("; ".join(sorted(set(machine.faults))))
