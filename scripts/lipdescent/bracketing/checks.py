"""Networks and data that have no bracket are refused, by name."""

import contextlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from lipdescent.bounds.jacobians.norms import one_model
from lipdescent.bounds.proofs.prover import Prover
from lipdescent.measurement import NotApplicable
from lipdescent.networks.reading import Unreadable
from lipdescent.stacks import own_call
from lipdescent.stacks.model_stack import ModelStack, tensors
from lipdescent.structure.trace import outputs, trace

NUM_COMPARED = 2  # points of each split at which calling the network is compared
LARGEST = 1e150  # of the data: distances between points are sums of squares


def stack_of_one(model: nn.Module, input_shape: Sequence[int]) -> ModelStack:
    """The network as a stack; ValueError where it holds nothing, or its dtypes do not fit."""
    shape = tuple(input_shape)
    if not shape or not all(isinstance(n, int) and n >= 1 for n in shape):
        raise ValueError(f"input_shape {shape}: allowed are positive integers, no batch axis")
    if not tensors(model):
        raise ValueError("the network has no parameters or buffers: there is nothing to measure")
    for name, tensor in tensors(model).items():
        if tensor.is_meta:
            raise ValueError(
                f"{name} is on the meta device, which holds no values: allowed are networks on a "
                "device that computes; build it there, or to_empty(device=...) and load weights"
            )
    _check_dtypes(model, shape)
    return ModelStack.from_modules([model], shape)


def _check_dtypes(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Raise ValueError where weights of several dtypes do not run: bounds are taken in float64."""
    first: dict[torch.dtype, str] = {}
    for name, tensor in tensors(model).items():
        if tensor.is_floating_point():
            first.setdefault(tensor.dtype, name)
    if len(first) < 2:
        return
    device = next(iter(tensors(model).values())).device
    try:
        with torch.no_grad(), own_call.preserved(model):
            model(torch.zeros(1, *input_shape, dtype=next(iter(first)), device=device))
    except RuntimeError as error:
        found = ", ".join(f"{name} is {dtype}" for dtype, name in first.items())
        raise ValueError(f"the network does not run: {error}; {found}") from error


def check_precisions(prover: Prover) -> None:
    """Raise ValueError where the rounding errors of an unknown forward pass cannot be estimated."""
    if prover.links is not None or prover.forward is not None:
        return
    stack = prover.stack
    for dtype in (torch.float64, torch.float32):
        try:
            with torch.no_grad():
                point = torch.zeros(1, *stack.input_shape, dtype=dtype, device=stack.device)
                one_model(stack, dtype)(point)
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"the network ({type(stack.module).__name__}) does not compute in {dtype}: "
                f"{error}; its rounding errors are estimated by comparing float32 with float64: "
                "allowed are networks that compute in the type of their weights and inputs, or "
                "that say in lipschitz_structure() what they compute"
            ) from error


def checked_data(
    data: Tensor | np.ndarray | Mapping[str, Tensor | np.ndarray] | None, stack: ModelStack
) -> dict[str, Tensor]:
    """Split -> points on the stack's device; TypeError or ValueError where they fit no bound."""
    if data is None:
        return {}
    splits = data if isinstance(data, Mapping) else {"": data}
    inputs = {}
    for split, points in splits.items():
        what = f"data {split!r}" if split else "data"
        points = torch.as_tensor(points)
        if not points.is_floating_point():
            raise TypeError(f"{what}: dtype {points.dtype}, allowed are floating-point numbers")
        if points.shape[1:] != stack.input_shape:
            expected = ", ".join(map(str, ("n", *stack.input_shape)))
            raise ValueError(f"{what}: shape {tuple(points.shape)}, expected ({expected})")
        if not len(points):
            raise ValueError(f"{what}: no points; at least one is needed")
        if not bool(points.isfinite().all()):
            raise ValueError(f"{what}: contains NaN or inf; allowed are finite numbers")
        if float(points.abs().max()) > LARGEST:
            raise ValueError(
                f"{what}: contains {float(points.abs().max()):g}; allowed are numbers up to "
                f"{LARGEST:g}, whose squares float64 still holds"
            )
        inputs[split] = points.to(stack.device)
    return inputs


def check_reading(model: nn.Module, stack: ModelStack, inputs: Mapping[str, Tensor]) -> None:
    """Compare calling the user's own module with what is read of it, at random inputs and data.

    Of a network that cannot be read that is the module itself on the tensors of the stack.
    """
    structure = None
    with contextlib.suppress(NotApplicable, Unreadable):  # each upper bound says so in its row
        structure = trace(stack)

    def read(points: Tensor, dtype: torch.dtype) -> Tensor:
        if structure is not None:
            return outputs(structure, stack, points, dtype)
        state = {name: t.clone() for name, t in stack.state_of(0, dtype).items()}
        return functional_call(stack.module, state, (points.to(dtype, copy=True),))

    points, places = own_call.random_inputs(stack.input_shape, stack.device)
    for split, own in inputs.items():
        points = torch.cat([points, own[:NUM_COMPARED].to(torch.float64)])
        places += [f"point {i} of the data {split!r}" for i in range(len(own[:NUM_COMPARED]))]
    own_call.check_call(model, read, points, places)
