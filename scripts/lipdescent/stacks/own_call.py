"""Whether calling a network gives what is read of it: its layers, parameters and buffers."""

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipdescent.networks.expressions import place
from lipdescent.stacks.model_stack import tensors

# Sizes of the normal inputs at which networks are compared.
SCALES, FEW_SCALES = (1.0, 8.0, 1e-3, 1e-2, 1e-1, 1e2, 1e3, 1e4), (1.0, 1e-3, 1e4)
CAUSES = (
    "what is called is not what is read: a hook (a global one, too), a replaced method, attribute "
    "or class, a module that works in place on what others read, or a tensor that is neither "
    "parameter nor buffer?"
)
# Relative differences, by the bits of a number, that an expression written another way may have:
# float64 finds what is not rounding, the other types what depends on the type.
_ROUNDING = {64: 2.0**-36, 32: 2.0**-13, 16: 2.0**-5}
_LARGE = 2**16  # numbers of an input, above which a network is compared at few
_COPIES = 3  # of the inputs in a batch that is larger than the others
_HALF = (torch.float16, torch.bfloat16)
# (inputs, dtype) -> outputs of what is read.
Read = Callable[[Tensor, torch.dtype], Tensor]


def random_inputs(shape: Sequence[int], device: torch.device) -> tuple[Tensor, list[str]]:
    """A normal input for each of ``SCALES``, float64 (n, *shape), and what each is called.

    For networks with large inputs, which are dear, for each of ``FEW_SCALES``.
    """
    scales = FEW_SCALES if is_large(shape) else SCALES
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(scales), *shape, generator=generator, dtype=torch.float64)
    x = x * torch.tensor(scales, dtype=torch.float64).view(-1, *[1] * len(shape))
    return x.to(device), [f"inputs of size {scale:g}" for scale in scales]


def is_large(shape: Sequence[int]) -> bool:
    """Whether networks with inputs of ``shape`` are compared no more often than they must be."""
    return math.prod(shape) > _LARGE


def check_call(model: nn.Module, read: Read, inputs: Tensor, places: Sequence[str]) -> None:
    """Compare ``model(x)``, in the type of its weights, with what is read of it.

    With gradients and without, alone, among others and in a larger batch.
    The caller's weights, modes and random states are left as they are.

    Parameters
    ----------
    inputs : float64 (n, *input_shape).
    places : what each of them is called in errors.

    Raises
    ------
    ValueError
        Where they differ by more than rounding, the network is random, or cannot be called.
    """
    dtype = next((t.dtype for t in tensors(model).values() if t.is_floating_point()), inputs.dtype)
    x = inputs.to(dtype)
    kept = x.isfinite().flatten(1).all(1)
    x, places = x[kept], [place for place, keep in zip(places, kept.tolist(), strict=True) if keep]
    many = x.repeat(_COPIES, *[1] * (x.ndim - 1))
    try:
        with preserved(model):
            outputs = [_apart(model(points.clone())) for points in (x, x, x[:1])]
            with torch.no_grad():  # as networks are evaluated, and in a larger batch
                outputs.append(model(many))
    except Exception as error:  # it is not our code: anything can be raised
        if dtype in _HALF and "not implemented for" in str(error):
            return  # made for another device; float64 has been compared
        shape = ("n", *map(str, x.shape[1:]))
        raise ValueError(
            f"{_culprit(error, model)} fails where the network is called on {dtype} inputs of "
            f"shape ({', '.join(shape)}): {type(error).__name__}: {error}{_instead(error, model)}"
        ) from error
    first, second, alone, without = map(_output, outputs, (x, x, x[:1], many))
    again = "calling the network twice at the same inputs differs (is it random in eval mode?)"
    compare(first, second, places, again, lambda: torch.zeros(len(x)), cause="")
    with torch.no_grad():
        found = _output(read(x, dtype), x)

        def rounding() -> Tensor:
            return 64 * gap(read, x, dtype, torch.float64)

        compare(first, found, places, "model(x) and what is read of the network", rounding)
        message = "examples of a batch influence each other: alone and among others, outputs"
        compare(alone, first[:1], places, message, lambda: rounding()[:1], cause="")
        message = f"with gradients, and without them and {_COPIES} times as many inputs, outputs"
        for part in without.split(len(x)):
            compare(part, first, places, message, rounding, cause="")


def _apart(y: Any) -> Any:
    """Without what gradients need, which is as large as all values between."""
    return y.detach() if isinstance(y, Tensor) else y


def _instead(error: Exception, model: nn.Module) -> str:
    """What to do about a network of several inputs, or of whole numbers."""
    if isinstance(error, TypeError) and "missing" in str(error) and "argument" in str(error):
        return "; a network of several inputs takes a shape for each, such as [(3,), (2,)]"
    if not any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in model.modules()):
        return ""
    return (
        "; whole numbers, as an embedding takes them, have no neighbours and so no Lipschitz "
        "constant: measure the part of the network behind the embedding"
    )


def check_evaluation(
    called: Callable[[Tensor], Tensor],
    read: Read,
    inputs: Tensor,
    places: Sequence[str],
    *,
    message: str,
    cause: str = CAUSES,
) -> None:
    """Compare ``called`` with what is read, both in float64; ValueError as :func:`check_call`."""

    def rounding() -> Tensor:
        # float32 is off by about 2^29 times as much as float64: this allows 2^9 times as much.
        return 2.0**-20 * gap(read, inputs, torch.float32, torch.float64)

    try:
        found = called(inputs.clone())
    except Exception as error:  # it is not our code: anything can be raised
        kind = type(error).__name__
        raise ValueError(
            f"the network does not compute in float64: {kind}: {error}; casts such as x.float() "
            "are left out where a forward is read itself, without lipschitz_structure()"
        ) from error
    found = _output(found, inputs)
    compare(found, read(inputs, inputs.dtype), places, message, rounding, cause=cause)


def compare(
    called: Tensor,
    read: Tensor,
    places: Sequence[str],
    message: str,
    rounding: Callable[[], Tensor],
    *,
    cause: str = CAUSES,
) -> None:
    """Raise ValueError unless each input's outputs (n, ...) agree but for rounding.

    Where both overflow nothing is compared. ``rounding`` (n,) is only asked for where the outputs
    differ by more than ``_ROUNDING``.
    """
    if called.shape != read.shape:
        raise ValueError(f"{message} differ: shapes {tuple(called.shape)} and {tuple(read.shape)}")
    info = torch.finfo(called.dtype)
    a, b = (t.detach().flatten(1).to(torch.float64) for t in (called, read))
    sound_a, sound_b = (t.isfinite().all(1) for t in (a, b))
    sizes = torch.where(sound_a, a.abs().amax(1), 0) + torch.where(sound_b, b.abs().amax(1), 0)
    error = (a - b).abs().amax(1)
    few = _ROUNDING[info.bits]
    suspect = sound_a & sound_b & (error > few * sizes)
    # Next to the largest number one order of summation overflows where another does not.
    suspect |= (sound_a != sound_b) & (sizes < 1e-3 * info.max)
    if not bool(suspect.any()):
        return
    allowed = rounding().to(sizes) + few * sizes
    wrong = suspect & ~(error <= allowed)
    for i in wrong.nonzero().flatten().tolist()[:1]:
        size = float(b[i].abs().max())
        raise ValueError(
            f"{message} differ by {float(error[i]):.3g} at outputs up to {size:.3g}, {places[i]}"
            + (f"; {cause}" if cause else "")
        )


def gap(read: Read, x: Tensor, one: torch.dtype, other: torch.dtype) -> Tensor:
    """How far two precisions are apart, at ``x`` and next to it: float64 (n,).

    Infinite where they overflow differently.
    """
    largest = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for factor in (1.0, 1 + 2.0**-6):
        point = (factor * x).to(one)
        a, b = (read(point.to(dtype), dtype).flatten(1).to(torch.float64) for dtype in (one, other))
        largest = torch.maximum(largest, (a - b).abs().amax(1).nan_to_num(torch.inf))
    return largest


@contextlib.contextmanager
def preserved(module: nn.Module) -> Iterator[None]:
    """Parameters, buffers, modes and the random states afterwards are those from before."""
    parts = [(m, m.training, dict(m._parameters), dict(m._buffers)) for m in module.modules()]
    values = [(tensor, tensor.detach().clone()) for tensor in tensors(module).values()]
    devices = sorted({t.device.index for t, _ in values if t.device.type == "cuda"})
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 the user's
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            for m, training, parameters, buffers in parts:
                m.training = training
                pairs: list[tuple[Any, Any]] = [(m._parameters, parameters), (m._buffers, buffers)]
                for own, kept in pairs:
                    own.clear()
                    own.update(kept)
            with torch.no_grad():
                for tensor, value in values:
                    if not torch.equal(tensor, value):
                        tensor.copy_(value)
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def _culprit(error: BaseException, model: nn.Module) -> str:
    """Path and class of the innermost module in whose code an exception was raised."""
    places = {id(m): place(m, path) for path, m in model.named_modules()}
    found, trace = "the network", error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        found = places.get(id(owner), found)
        trace = trace.tb_next
    return found


def _output(y: object, x: Tensor) -> Tensor:
    """``y`` if it is one row of numbers per input."""
    if not isinstance(y, Tensor):
        raise ValueError(f"the network returns a {type(y).__name__}; allowed is one tensor")
    if not y.is_floating_point():
        raise ValueError(f"the network returns {y.dtype}; allowed are floating-point outputs")
    if y.ndim < 2 or len(y) != len(x) or not y.numel():
        raise ValueError(
            f"the network gives outputs of shape {tuple(y.shape)} for {len(x)} inputs; allowed is "
            "to keep the batch axis, and one more axis: (n, outputs)"
        )
    return y
