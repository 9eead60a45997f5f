"""A stand-in for CUDA devices: tensors that say they are there, streams that copy late, memory that is poisoned.

A tensor `OnCard` has its numbers in host memory, where all is computed at once, but a copy of it into registered memory
on a stream waits: until an event after it is waited for, or until chance has it done, in order within a stream and in
none between streams. Until then its place holds nothing but NaN, and the tensor itself turns to NaN as soon as nobody
holds it. What a real device would do wrong silently is a fault here, which `check` raises.
"""

import ctypes
import mmap
import random
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import count
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch.overrides import TorchFunctionMode

from lorascope.capture.buffers import row_buffer
from lorascope.capture.buffers.copies import StreamCopier
from lorascope.capture.buffers.row_buffer import RowBuffer
from lorascope.capture.buffers.target import BatchTarget
from lorascope.capture.recording.reduce import has_kernel

T = torch.Tensor
_MOVES = {T.to, T.cpu}
_ANYWHERE = {T.__getitem__, T.__setitem__, T.copy_}
"""What takes tensors of different devices."""
_clock = count(1)


class OnCard(T):
    """A tensor on a device that isn't there; operations with tensors elsewhere are refused, as torch does."""

    on: ClassVar[torch.device]
    made = 0
    """When it was last written, by the clock of all operations."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]  # torch's is no property to mypy
        """The device that it would be on."""
        return self.on

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, types, args, kwargs or {})


# Of one name, since a run's provenance has what kinds of tensors the weights are.
_KINDS: list[type[OnCard]] = [type("OnCard", (OnCard,), {"on": torch.device("cuda", index)}) for index in (0, 1)]


class _Mode(TorchFunctionMode):
    """Catches calls that make tensors on a device without an input tensor."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _call(func, types, args, kwargs or {})


def _plain(tensor: T) -> T:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(T)


def _put(tensor: T, device: torch.device) -> T:
    """The same memory as a tensor of this device, written just now."""
    if device.type != "cuda":
        return _plain(tensor)
    placed = tensor if isinstance(tensor, OnCard) else tensor.as_subclass(_KINDS[device.index or 0])
    placed.made = next(_clock)
    return placed


def _call(func: Any, types: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func in _MOVES:
        return _move(*args, **kwargs)
    devices = {kind.on for kind in types if issubclass(kind, OnCard)}
    if func is T.copy_ and not isinstance(args[0], OnCard) and devices:
        return Card.now.copy_out(*args, **kwargs)
    if func is T.is_cuda.__get__:
        return bool(devices)
    if func is T.numpy and devices:
        raise TypeError("can't convert cuda tensor to numpy")
    if kwargs.get("device") is not None:
        devices, kwargs = {torch.device(kwargs["device"])}, {**kwargs, "device": "cpu"}
    elif devices and func not in _ANYWHERE:
        tensors: list[T] = []
        _map(tensors.append, (args, kwargs))
        if len(devices) > 1 or any(not isinstance(tensor, OnCard) and tensor.ndim for tensor in tensors):
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, but found at least two")
    with torch._C.DisableTorchFunctionSubclass():
        result = func(*args, **kwargs)
    return _map(partial(_put, device=devices.pop()), result) if devices else result


def _map(change: Callable[[T], Any], values: Any) -> Any:
    """Every tensor within lists, tuples and dictionaries changed."""
    if isinstance(values, T):
        return change(values)
    if isinstance(values, tuple | list):
        return type(values)([_map(change, value) for value in values])
    return {key: _map(change, value) for key, value in values.items()} if type(values) is dict else values


def _move(tensor: T, *args: Any, copy: bool = False, **kwargs: Any) -> T:
    """`to` and, without a device, `cpu`: the tensor itself where nothing changes, else other memory."""
    device, dtype = tensor.device if args or kwargs else torch.device("cpu"), tensor.dtype
    for value in (*args, *kwargs.values()):
        if isinstance(value, T):
            device, dtype = value.device, value.dtype
        elif isinstance(value, torch.dtype):
            dtype = value
        elif isinstance(value, str | torch.device):
            device = torch.device(value)
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)
    if (device, dtype) == (tensor.device, tensor.dtype) and not copy:
        return tensor
    return _put(_plain(tensor).to(dtype, copy=True), device)


def on_card(tensor: T, index: int = 0) -> T:
    """A tensor as one of a device; it keeps its memory."""
    return _put(tensor, torch.device("cuda", index))


def spread(model: Any, device: Callable[[str], int] = lambda name: 0) -> Any:
    """The model, its weights on devices by the names of its modules, which move what comes in, as accelerate does."""
    for name, module in model.named_modules():
        where = torch.device("cuda", device(name))
        for held in (module._parameters, module._buffers):
            for key, tensor in held.items():
                if tensor is not None:
                    placed = _put(tensor.detach(), where)
                    held[key] = placed if held is module._buffers else torch.nn.Parameter(placed, requires_grad=False)
        if name:
            module.register_forward_pre_hook(partial(_bring, where), with_kwargs=True, prepend=True)
    return model


def _bring(where: torch.device, module: Any, args: Any, kwargs: Any) -> Any:
    return _map(lambda tensor: tensor.to(where), (args, kwargs))


class _Stream:
    """Copies in order, late."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.jobs: deque[tuple[T, T]] = deque()
        """(place, values) of the copies that wait."""
        self.n_asked = self.n_done = 0
        self.seen = 0
        """By the clock, up to when it has waited for the pass's own stream."""
        with Card.now.lock:
            Card.now.streams.append(self)

    def wait_stream(self, other: Any) -> None:
        self.seen = next(_clock)

    def record_event(self) -> Any:
        number = self.n_asked

        def query() -> bool:
            Card.now.pass_time()
            return self.n_done >= number

        def synchronize() -> None:
            assert Card.now.go.wait(60)
            self.run(number)

        return SimpleNamespace(query=query, synchronize=synchronize)

    def run(self, number: int) -> None:
        with Card.now.lock, torch.inference_mode():
            while self.n_done < number:
                place, values = self.jobs.popleft()
                place.copy_(values)
                self.n_done += 1


class Card:
    """Two devices, and the account of what is done with them."""

    now: ClassVar["Card"]

    def __init__(self, seed: int = 0) -> None:
        self.lock = threading.RLock()
        self.go = threading.Event()
        """No copy is done before it is set, as it is from the beginning."""
        self.go.set()
        self.streams: list[_Stream] = []
        self.registered: dict[int, int] = {}
        """Where registered memory begins -> bytes."""
        self.may_register = True
        self.faults: list[str] = []
        self.most_registered = self.n_copied = 0
        self.outputs: list[T] = []
        """Outputs of layers in the current batch."""
        self._random = random.Random(seed)
        self._share = (0.0, 0.1, 0.6)[seed % 3]
        """How often something is done before it is waited for."""
        self._current = threading.local()

    def pass_time(self) -> None:
        """Let some streams go on."""
        with self.lock:
            if not self.go.is_set():
                return
            for stream in self._random.sample(self.streams, len(self.streams)):
                while stream.jobs and self._random.random() < self._share:
                    stream.run(stream.n_done + 1)

    @contextmanager
    def stream(self, stream: _Stream) -> Iterator[None]:
        self._current.stream = stream
        yield
        self._current.stream = None

    def copy_out(self, place: T, values: OnCard, non_blocking: bool = False) -> T:
        """From a device into host memory."""
        stream = getattr(self._current, "stream", None)
        hidden = _plain(values)
        if stream is None or not non_blocking:
            return place.copy_(hidden)
        with self.lock, torch.inference_mode():
            self.n_copied += 1
            if stream.device != values.device:
                self.fault("copied on another device's stream")
            if values.made > stream.seen:
                self.fault("copied before it is computed")
            if (place.dtype, place.shape) != (hidden.dtype, hidden.shape) or not place.is_contiguous():
                self.fault("copied by way of other memory")
            first = place.data_ptr()
            if not any(at <= first and first + place.nbytes <= at + n for at, n in self.registered.items()):
                stream.run(stream.n_asked)  # CUDA itself copies so from and to memory that isn't page-locked
                return place.copy_(hidden)
            place.fill_(torch.nan if place.is_floating_point() else torch.iinfo(place.dtype).min)
            stream.jobs.append((place, hidden))
            stream.n_asked += 1
        weakref.finalize(values, self._poison, hidden)
        self.pass_time()
        return place

    def register(self, first: int, n_bytes: int, flags: int) -> int:
        if not self.may_register:
            return 2  # cudaErrorMemoryAllocation
        if first % mmap.PAGESIZE or n_bytes % 4096 or flags != 1:
            self.fault("registered otherwise than as whole pages for every device")
        self.registered[first] = n_bytes
        self.most_registered = max(self.most_registered, sum(self.registered.values()))
        return 0

    def unregister(self, first: int) -> int:
        if first not in self.registered:
            self.fault("unregistered, but not registered")
            return 1
        self.require_idle(first, self.registered.pop(first), "unregistered")
        return 0

    def fault(self, words: str) -> None:
        self.faults.append(words)

    def check(self) -> None:
        """Nothing was done wrong and nothing is left behind."""
        assert self.faults == []
        assert self.registered == {}
        assert [len(stream.jobs) for stream in self.streams] == [0] * len(self.streams)

    def make_memory(self, _: int, n_bytes: int, *, flags: int) -> mmap.mmap:
        """Memory that is a fault if it goes while it is registered."""
        memory = mmap.mmap(-1, n_bytes, flags=flags)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        weakref.finalize(memory, lambda: first in self.registered and self.fault("freed while registered"))
        return memory

    def begin(self, buffer: RowBuffer) -> None:
        """Nothing that a row buffer is begun with may end up in a row."""
        self.watch(buffer, "begun")
        buffer.memory.fill_(0xFF)

    def watch(self, buffer: RowBuffer, what: str) -> None:
        self.require_idle(buffer.memory.data_ptr(), buffer.memory.nbytes, what)

    def require_idle(self, first: int, n_bytes: int, what: str) -> None:
        """Copies into this memory must be done."""
        with self.lock:
            places = [place.data_ptr() for stream in self.streams for place, _ in stream.jobs]
            if any(first <= place < first + n_bytes for place in places):
                self.fault(f"{what} before it is copied")

    def reuse_outputs(self) -> None:
        """The pass is over, and the allocator gives the memory of its layers' outputs to others."""
        for output in self.outputs:
            self._poison(output)
        self.outputs.clear()

    def _poison(self, values: T) -> None:
        with self.lock, torch.inference_mode():
            values.fill_(torch.nan if values.is_floating_point() else torch.iinfo(values.dtype).min)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Card]]:
    """Makes devices that aren't there, their delays by a seed; the latest made are torch's."""

    def make(seed: int = 0) -> Card:
        Card.now = made = Card(seed)
        cudart = SimpleNamespace(cudaHostRegister=made.register, cudaHostUnregister=made.unregister)
        monkeypatch.setattr(torch.cuda, "stream", made.stream)
        monkeypatch.setattr(torch.cuda, "cudart", lambda: cudart)
        monkeypatch.setattr(row_buffer, "mmap", SimpleNamespace(**vars(mmap) | {"mmap": made.make_memory}))
        return made

    make()
    stands_in = {
        "Stream": _Stream,
        "current_stream": lambda device: None,
        "device": lambda device: nullcontext(),
        "synchronize": lambda device: None,
        "get_device_name": lambda device: "stand-in",
        "get_device_capability": lambda device: (0, 0),
    }
    for name, value in stands_in.items():
        monkeypatch.setattr(torch.cuda, name, value)

    def before(kind: type, name: str, what: Callable[..., Any]) -> None:
        method = getattr(kind, name)

        def both(*args: Any) -> Any:
            what(*args)
            return method(*args)

        monkeypatch.setattr(kind, name, both)

    before(RowBuffer, "reset", lambda buffer: Card.now.begin(buffer))
    before(RowBuffer, "blocks", lambda buffer, _: Card.now.watch(buffer, "read"))
    before(StreamCopier, "copy", lambda _, output, *__: Card.now.outputs.append(_plain(output)))
    before(BatchTarget, "flush", lambda _: Card.now.reuse_outputs())
    has_kernel.cache_clear()  # there is no kernel for a card of this capability
    with _Mode():
        yield make
    has_kernel.cache_clear()
