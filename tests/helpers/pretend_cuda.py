"""A CUDA device that is not there: tensors on the CPU that behave as if they lay on one.

Inside :class:`PretendCuda` ``device="cuda"`` works on any machine. Values are computed on the CPU;
what is watched is what only a device would punish:

- tensors of both devices in one operation (RuntimeError, as CUDA's; 0-dim CPU tensors may join in),
  or one of the device given to NumPy (TypeError);
- waiting for the device: an error after ``torch.cuda.set_sync_debug_mode("error")`` and inside a
  graph's capture, as CUDA has it;
- CUDA graphs: what is captured is replayed operation by operation on the captured tensors, so that
  whatever Python decided or computed is as frozen as in a real graph. Operations on another device
  than the capturing stream's are not captured.

What it cannot see: kernels, streams, memory, speed, and whether cuDNN or cuBLAS accept a call.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from unittest import mock

import torch
from leaves import tensors
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
CPU = torch.device("cpu")
# Operations whose result the host must have before it can go on. Factorisations of linalg wait
# for an error code, unless they are the variants (_ex) that leave it on the device.
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.is_nonzero, aten.equal, aten.masked_select,
    aten.unique_dim, aten._unique2, aten.unique_consecutive, aten.bincount, aten.allclose,
    aten.linalg_eigh, aten._linalg_eigh, aten._linalg_svd, aten.linalg_qr, aten.linalg_eig,
    aten._linalg_check_errors, aten.linalg_lstsq,
}  # fmt: skip
# They copy from the host, below the dispatcher.
FROM_NUMBERS = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
# Operations that may read indices from the CPU; it costs a copy that the host waits for.
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Waits(RuntimeError):
    """The host would wait for the device where it must not."""


class PretendCuda(contextlib.ExitStack):
    """Use as ``with PretendCuda():``; ``count`` devices."""

    def __init__(self, count: int = 1) -> None:
        super().__init__()
        self.count, self.current = count, 0
        # Memory that is not the host's: by its address, the device's index.
        self._places: dict[int, tuple[StorageWeakRef, int]] = {}
        self._pinned: dict[int, StorageWeakRef] = {}
        self.forbids_waiting = False
        self.captured: list[tuple] | None = None
        self.capturing = 0  # on which device
        self.inside: int | None = None  # a call that was given tensors of this device
        self.graphs = 0

    def __enter__(self) -> PretendCuda:
        super().__enter__()
        for name, replacement in self._replacements().items():
            self.enter_context(mock.patch(name, replacement))
        self.enter_context(_Functions(self))
        self.enter_context(_Operations(self))
        return self

    def place(self, tensor: Tensor) -> int | None:
        """Index of the device that holds the tensor; None: the host."""
        return self.of_storage(_storage(tensor))

    def of_storage(self, address: int) -> int | None:
        found = self._places.get(address)
        return None if found is None else found[1]

    def is_pinned(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self._pinned

    def put(self, tensor: Tensor, place: int | None) -> None:
        """From now on the tensor's memory is there."""
        key = _storage(tensor)
        if place is None:
            self._places.pop(key, None)
        else:  # a weak reference keeps the address from being given to another tensor's memory
            self._places[key] = (StorageWeakRef(_bare(tensor).untyped_storage()), place)
            if len(self._places) % 4096 == 0:
                old = [k for k, (reference, _) in self._places.items() if reference.expired()]
                for k in old:
                    del self._places[k]

    def pin(self, tensor: Tensor) -> None:
        self._pinned[_storage(tensor)] = StorageWeakRef(tensor.untyped_storage())

    def index(self, device) -> int | None:
        """Of a device by name; None: the CPU."""
        if isinstance(device, int):
            return device
        device = torch.device(device)
        if device.type != "cuda":
            return None
        found = self.current if device.index is None else device.index
        if not found < self.count:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return found

    def wait(self, why: str) -> None:
        if self.captured is not None:
            raise Waits(f"operation not permitted when stream is capturing: {why}")
        if self.forbids_waiting:
            raise Waits(f"called a synchronizing CUDA operation: {why}")

    def _replacements(self) -> dict[str, object]:
        autocast = torch.autocast
        stand_in = {
            "is_available": lambda: True,
            "device_count": lambda: self.count,
            "current_device": lambda: self.current,
            "set_device": self._set_device,
            "get_device_properties": lambda index: mock.Mock(uuid=f"pretended-{index}"),
            "synchronize": lambda device=None: self.wait("synchronize"),
            "get_rng_state": lambda device=None: torch.zeros(0),
            "set_rng_state": lambda state, device=None: None,
            "empty_cache": lambda: None,
            "mem_get_info": lambda device=None: (8 << 30, 8 << 30),
            "get_device_name": lambda device=None: "pretended device",
            "set_sync_debug_mode": self._set_sync_debug_mode,
            "Stream": lambda device=None: mock.Mock(device=self._device(device)),
            "current_stream": lambda device=None: mock.Mock(device=self._device(device)),
            "stream": lambda stream: contextlib.nullcontext(),
            "CUDAGraph": lambda: _Graph(self),
            "graph": _capture,
        }
        return {f"torch.cuda.{name}": value for name, value in stand_in.items()} | {
            "torch.autocast": lambda device_type, **options: autocast("cpu", **options)
        }

    def _device(self, device) -> torch.device:
        return torch.device("cuda", self.current if device is None else self.index(device))

    def _set_device(self, device) -> None:
        self.current = self.index(device)

    def _set_sync_debug_mode(self, mode: str) -> None:
        self.forbids_waiting = mode == "error"


@contextlib.contextmanager
def unwatched():
    """What is done meanwhile is the host's alone: nothing is watched, and it takes a third."""
    with contextlib.ExitStack() as stack:
        while torch._C._len_torch_function_stack():
            stack.enter_context(_pop_mode_temporarily())
        stack.enter_context(_disable_current_modes())
        yield


class _Functions(TorchFunctionMode):
    """What is decided above the dispatcher: devices by name, and ways out of torch."""

    def __init__(self, pretence: PretendCuda) -> None:
        super().__init__()
        self._pretence = pretence

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = _name(func)
        special = getattr(self, f"_{name}", None) if name else None
        if special is None and name.endswith("_get"):
            return func(*args)  # a property allocates nothing: half of what is asked of tensors
        pretence, kwargs = self._pretence, dict(kwargs or {})
        tensor = args[0] if args and isinstance(args[0], Tensor) else None
        if special is not None:
            return special(func, *args, **kwargs)
        if func in (Tensor.numpy, Tensor.__array__) and pretence.place(tensor) is not None:
            raise TypeError("can't convert cuda:0 device type tensor to numpy.")
        given = tensors((args, kwargs))
        wanted = kwargs.get("device")
        if wanted is None:
            place = _first(map(pretence.place, given))
        else:
            place, kwargs["device"] = pretence.index(wanted), CPU
        made = self._call(place, func, *args, **kwargs)
        if place is not None and func in FROM_NUMBERS and pretence.place(made) is None:
            pretence.wait("a tensor made from what the host holds")
            made = made.clone() if made is args[0] else made
            pretence.put(made, place)
        return made

    def _call(self, place: int | None, func, *args, **kwargs):
        """What torch allocates within the call is where its arguments are."""
        outer, self._pretence.inside = self._pretence.inside, place
        try:
            return func(*args, **kwargs)
        finally:
            self._pretence.inside = outer

    def _device_get(self, func, tensor):
        place = self._pretence.place(tensor)
        return func(tensor) if place is None else torch.device("cuda", place)

    def _is_cuda_get(self, func, tensor):
        return self._pretence.place(tensor) is not None

    def _pin_memory(self, func, tensor):
        if self._pretence.place(tensor) is not None:
            raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be")
        # With the strides it has: what overlaps (an expanded tensor) is refused, as CUDA does.
        copy = torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
        copy.copy_(tensor)
        self._pretence.pin(copy)
        return copy

    def _cpu(self, func, tensor, **kwargs):
        return self._to(Tensor.to, tensor, CPU)

    def _cuda(self, func, tensor, *args, **kwargs):
        return self._to(Tensor.to, tensor, "cuda")

    def _to(self, func, tensor, *args, **kwargs):
        pretence = self._pretence
        order = ("dtype", "non_blocking", "copy", "memory_format")
        if args and not isinstance(args[0], torch.dtype):
            device, order = args[0], ("device", *order)
            if isinstance(device, Tensor):
                args = (self._device_get(Tensor.device.__get__, device), device.dtype, *args[1:])
        kwargs = dict(zip(order, args, strict=False)) | kwargs
        kwargs = {name: value for name, value in kwargs.items() if value is not None}
        device, here = kwargs.pop("device", None), pretence.place(tensor)
        if device is not None and torch.device(device).type not in ("cpu", "cuda"):
            return func(tensor, device=device, **kwargs)
        there = here if device is None else pretence.index(device)
        if here == there:
            return self._call(here, func, tensor, **kwargs) if kwargs else tensor
        if here is not None or not (
            kwargs.pop("non_blocking", False) and pretence.is_pinned(tensor)
        ):
            pretence.wait("a copy between host and device")
        moved = self._call(there, func, tensor, **kwargs | {"copy": True})
        pretence.put(moved, there)
        return moved


def _first(places) -> int | None:
    return next((place for place in places if place is not None), None)


@functools.cache
def _name(func: Callable) -> str:
    """``device_get`` for the getter of Tensor.device, ``to`` for Tensor.to, "" for functions."""
    owner = getattr(func, "__self__", None)
    if getattr(func, "__name__", "") == "__get__":
        return f"{owner.__name__}_get"
    return func.__name__ if getattr(Tensor, getattr(func, "__name__", ""), None) is func else ""


def _bare(tensor: Tensor) -> Tensor:
    """Without the wrappers of torch.func's transforms."""
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    return tensor


def _storage(tensor: Tensor) -> int:
    return _bare(tensor).untyped_storage()._cdata


class _Operations(TorchDispatchMode):
    """Every operation, those of the backward pass too: which device, does it wait, is it kept."""

    def __init__(self, pretence: PretendCuda) -> None:
        super().__init__()
        self._pretence = pretence

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():  # what is asked of tensors here is no one's call
            return self._run(func, args, kwargs or {})

    def _run(self, func, args: tuple, kwargs: dict):
        pretence = self._pretence
        packet = func.overloadpacket
        given = tensors((args, kwargs))
        keys = list(map(_storage, given))
        places = list(map(pretence.of_storage, keys))
        if any(place is not None for place in places):
            self._check(packet, args, given, places)
        out = func(*args, **kwargs)
        # Without a tensor it is a factory, called by name or by what torch does for another call.
        factory = "device" in kwargs or not given
        place = pretence.inside if factory else _first(places)
        kept = pretence.captured is not None and place in (None, pretence.capturing)
        if place is None and not kept:
            return out
        mine = set(keys)
        for made in tensors([out]):
            if _storage(made) not in mine and place is not None:
                pretence.put(made, place)
        if kept:
            pretence.captured.append((func, args, kwargs, out, mine))
        return out

    def _check(self, packet, args, given: list[Tensor], places: list[int | None]) -> None:
        pretence = self._pretence
        if packet in WAITING:
            pretence.wait(str(packet))
        if packet in INDEXING:
            found = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in found):
                pretence.wait(f"{packet} by a mask")
            if any(pretence.place(i) is None for i in found):
                pretence.wait(f"{packet} by the host's indices")
            given = [args[0], *args[2:3]]
        elif packet is aten.copy_:
            to, origin = places[:2]
            free = len(args) > 2 and args[2] and (origin is not None or pretence.is_pinned(args[1]))
            if to != origin and not (free and to is not None):
                pretence.wait("a copy between host and device")
            return
        found = {pretence.place(t) for t in given if t.ndim > 0 or pretence.place(t) is not None}
        # What is indexed must be where the indices are, if these are on a device.
        if len(found) > 1 or (packet in INDEXING and found == {None}):
            raise RuntimeError(
                f"{packet}: Expected all tensors to be on the same device, but found at least two "
                f"devices, cuda:0 and cpu! (shapes {[tuple(t.shape) for t in given]})"
            )


class _Graph:
    """Operations in the order of their capture."""

    def __init__(self, pretence: PretendCuda) -> None:
        self.pretence = pretence
        self.operations: list[tuple] = []

    def pool(self) -> tuple[int, int]:
        return (0, 1)

    def replay(self) -> None:
        with _disable_current_modes():  # checked when they were captured
            for func, args, kwargs, out, mine in self.operations:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                    if isinstance(old, Tensor) and _storage(old) not in mine:
                        old.copy_(new)


@contextlib.contextmanager
def _capture(graph: _Graph, pool=None, stream=None):
    pretence = graph.pretence
    pretence.captured = graph.operations
    pretence.capturing = pretence.current if stream is None else stream.device.index
    try:
        yield
    finally:
        pretence.captured = None
    # A captured number is a constant, a captured tensor is the tensor itself.
    graph.operations[:] = [
        (func, *tree_map(_detached, (args, kwargs, out)), mine)
        for func, args, kwargs, out, mine in graph.operations
    ]
    pretence.graphs += 1


def _detached(leaf):
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
