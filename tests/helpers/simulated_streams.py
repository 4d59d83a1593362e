"""Streams, events and memory of simulated CUDA devices: who has waited for whom."""

from __future__ import annotations

from typing import Any

import torch


class StreamError(RuntimeError):
    """Something was read, written or freed before what had to come first had ended."""


class Stream:
    """A queue of work. Its clock counts what was queued; `seen` says how far it waited for each other one."""

    def __init__(self, machine: Any, device: torch.device) -> None:
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

    def __init__(self, machine: Any, device: torch.device, size: int, stream: Stream) -> None:
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
