"""Blocks of a chain, scaled against each other channel by channel before their norms are taken.

Where between two layers there are only maps that act channel by channel (activations, pools,
flattening), a positive weight per channel may be inserted: L <= product of |D_i B_i D_{i-1}^-1|,
B_i single layers or pairs as in ``upper_block_lipsdp``. The weights are searched for all blocks at
once (:mod:`lipdescent.bounds.lipsdp.channel_scales`); the bound is ``upper_block_lipsdp`` of the
network whose layers are scaled by them, or of the network itself where that is smaller. Scaling is
exact: a layer's rows are multiplied by a and the next one's columns by b, both of so few bits that
no product of a float32 weight rounds, with a b >= 1, which leaves a map of slope 1 / (a b) <= 1
between. Weights of more bits, and slopes that exclude 0, are scaled by powers of two. l2 only,
certified. Chains only: a residual block keeps its two sides as they are.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lipdescent.arithmetic import ulps
from lipdescent.bounds.lipsdp.channel_scales import Block, search
from lipdescent.bounds.lipsdp.symbols import LinearMap, block_symbols, torus_sizes
from lipdescent.bounds.upper_block_lipsdp import block_lipsdp, linear_map
from lipdescent.bounds.upper_layer_product import layer_product
from lipdescent.layers import _torus, activation
from lipdescent.layers._operators import dense
from lipdescent.measurement import Measurement, NotApplicable, refuse_other_norms
from lipdescent.networks.expressions import Chain, Layer, Node
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.structure.trace import trace

DIRECTION = "upper"
NORMS = ("l2",)
_BITS = 12  # of a and of b each, after the leading one: 24 + 13 + 13 <= 53
_LARGEST, _DENSE = 2**20, 2**17  # entries of all symbols of one model; of a layer's matrix
_POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_CHANNELWISE = (*_POOLS, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Dropout)


def measure(
    stack: ModelStack,
    *,
    inputs: Mapping[str, Tensor] | None = None,
    norms: Sequence[str] = NORMS,
    seed: int = 0,
) -> Iterator[Measurement]:
    """Yield ``upper_scaled_blocks`` (l2); ``inputs`` and ``seed`` are not used, nothing is drawn.

    Raises
    ------
    NotApplicable
        For another norm, a network without a convolution or with no two layers to scale against
        each other, attention, or a layer without a constant.
    TypeError, ValueError
        As :func:`lipdescent.structure.trace.trace`.
    """
    refuse_other_norms(norms, NORMS)
    yield Measurement("upper_scaled_blocks", DIRECTION, "l2", scaled_blocks(stack))


def scaled_blocks(stack: ModelStack) -> Tensor:
    """The bound itself: float64 (num_models,)."""
    node = trace(stack)
    runs = _runs(node.parts, stack) if isinstance(node, Chain) else []
    if not runs:
        raise NotApplicable("no convolution and layer of a chain that are scaled together")
    plain, scaled = _best(stack), stack.to(dtype=torch.float64)
    for run in runs:
        layers = [run[0].before, *(link.after for link in run)]
        entries = sum(_entries(_map(layer, stack)) for layer in layers)
        if entries > _LARGEST:
            raise NotApplicable(f"{entries} symbol entries; allowed are {_LARGEST}")
        blocks, links = _blocks(run, stack)
        with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]
            for link, log_d in zip(links, search(blocks, [k.channels for k in links]), strict=True):
                factors = _factors(log_d.nan_to_num(0.0), fine=_is_fine(link, stack))
                scaled = _inserted(scaled, link, *factors)
    return torch.minimum(plain, _best(scaled))


def _best(stack: ModelStack) -> Tensor:
    try:
        return block_lipsdp(stack)
    except NotApplicable:  # no pair
        return layer_product(stack)


class Link(NamedTuple):
    """What lies between two weighted layers that follow each other."""

    before: Layer
    after: Layer
    between: tuple[Layer, ...]

    @property
    def channels(self) -> int:
        return self.before.output_shape[0]

    @property
    def pixels(self) -> int:
        """Columns in a row of ``after`` that belong to one channel."""
        return self.after.input_shape[0] // self.channels if _is_linear(self.after) else 1

    @property
    def is_pair(self) -> bool:
        return len(self.between) == 1 and type(self.between[0].module) in activation.SLOPES


def _is_linear(layer: Layer) -> bool:
    return type(layer.module) is nn.Linear


def _runs(parts: Sequence[Node], stack: ModelStack) -> list[list[Link]]:
    """Links that follow each other, of two weighted layers each, in runs with a convolution."""
    runs: list[list[Link]] = [[]]
    last: Layer | None = None
    between: list[Layer] = []
    for part in parts:
        if isinstance(part, Layer) and _is_weighted(part, stack):
            if last is not None:
                runs[-1].append(Link(last, part, tuple(between)))
            last, between = part, []
        elif isinstance(part, Layer) and _is_channelwise(part):
            between.append(part)
        else:
            last, between = None, []
            runs.append([])
    return [run for run in runs if any(not _is_linear(link.before) for link in run)]


def _is_weighted(layer: Layer, stack: ModelStack) -> bool:
    """Whether factors of channels can be multiplied into its weights: products and quotients by
    numbers are linear, too, but have none, or such as are divided by."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return type(layer.module) in kinds and linear_map(layer, stack) is not None


def _is_channelwise(layer: Layer) -> bool:
    if type(layer.module) is nn.Flatten:
        return len(layer.output_shape) == 1
    return type(layer.module) in (*_CHANNELWISE, *activation.SLOPES)


def _blocks(run: list[Link], stack: ModelStack) -> tuple[list[Block], list[Link]]:
    """Blocks of a run, pairs where they fit, from the left; the links between blocks."""
    layers = [run[0].before, *(link.after for link in run)]
    blocks: list[Block] = []
    links: list[Link] = []
    i = 0
    while i < len(layers):
        pair = run[i] if i < len(run) and run[i].is_pair else None
        symbols = None if pair is None else _pair_symbols(pair, stack)
        end = i if symbols is None else i + 1
        before = None if i == 0 else len(links) - 1
        after = None if end == len(run) else len(links)
        symbols_of = _single(layers[i], stack) if symbols is None else symbols
        first, second, slopes, (columns, rows) = symbols_of
        if i and _is_linear(layers[i]):
            columns = run[i - 1].pixels
        blocks.append(Block(first, second, before, after, (columns, rows), slopes))
        if end < len(run):
            links.append(run[end])
        i = end + 1
    return blocks, links


def _entries(one: LinearMap) -> int:
    return math.prod(one.kernel.shape[1:3]) * math.prod(axis.torus_size() for axis in one.axes)


def _single(layer: Layer, stack: ModelStack) -> tuple[Tensor, None, None, tuple[int, int]]:
    """A layer as a matrix where that is small, else as its symbols; pixels per channel of it."""
    one = _map(layer, stack)
    pixels = math.prod(a.size for a in one.axes), math.prod(a.outputs for a in one.axes)
    rows, columns = one.kernel.shape[1] * pixels[1], one.kernel.shape[2] * pixels[0]
    if rows * columns <= _DENSE:
        return dense(one.kernel[:, None], one.axes), None, None, pixels
    sizes = [math.ceil(axis.torus_size() / axis.stride) for axis in one.axes]
    grid = _torus.frequencies(sizes, (0,) * len(sizes))
    symbols = _torus.symbol(one.kernel, one.offsets, one.strides, sizes, grid)
    return symbols, None, None, (1, 1)


def _pair_symbols(
    link: Link, stack: ModelStack
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor], tuple[int, int]] | None:
    first, second = _map(link.before, stack), _map(link.after, stack)
    if len(first.axes) != len(second.axes):
        return None
    sizes = torus_sizes(first, second, None)
    if sizes is None:
        return None
    none = torch.zeros(stack.num_models, dtype=torch.int64, device=stack.device)
    symbols = block_symbols(first, second, None, sizes=sizes, exponent=none)
    low, high = _slopes(link.between[0], stack)
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)  # crops, see lipsdp.blocks
    slopes = (low + high) / 2, (high - low) / 2
    return symbols.first, symbols.second, slopes, (1, 1)


def _map(layer: Layer, stack: ModelStack) -> LinearMap:
    found = linear_map(layer, stack)
    assert found is not None, layer.place
    return found


def _slopes(layer: Layer, stack: ModelStack) -> list[Tensor]:
    return [
        torch.as_tensor(s, dtype=torch.float64, device=stack.device).expand(stack.num_models)
        for s in activation.slopes(layer.module, layer.state(stack.state))
    ]


def _inserted(stack: ModelStack, link: Link, a: Tensor, b: Tensor) -> ModelStack:
    """The stack with channels times a behind ``link.before``, times b before ``link.after``."""
    names = link.before.named("weight"), link.after.named("weight")
    before, after = (stack.state[name] for name in names)
    rows = before * a.reshape(*a.shape, *[1] * (before.ndim - 2))
    groups = getattr(link.after.module, "groups", 1)
    wide = b.repeat_interleave(link.pixels, 1).reshape(len(b), groups, 1, -1)
    split = after.reshape(len(after), groups, -1, after.shape[2], math.prod(after.shape[3:]))
    columns = (split * wide[..., None]).reshape(after.shape)
    ordinary = torch.stack([_is_ordinary(x) for x in (before, after)]).all(0)
    return ModelStack(
        stack.module,
        {
            **stack.state,
            names[0]: torch.where(ordinary.reshape(-1, *[1] * (before.ndim - 1)), rows, before),
            names[1]: torch.where(ordinary.reshape(-1, *[1] * (after.ndim - 1)), columns, after),
        },
        stack.input_shape,
    )


def _factors(log_d: Tensor, *, fine: bool) -> tuple[Tensor, Tensor]:
    """a near D and b >= 1 / a, of few bits; powers of two with a b = 1 unless ``fine``."""
    if not fine:
        power = (log_d / math.log(2)).round().to(torch.int64)
        return ulps.times_power(torch.ones_like(log_d), power), ulps.times_power(
            torch.ones_like(log_d), -power
        )
    mantissa, exponent = torch.frexp(log_d.exp())
    a = ulps.times_power((mantissa * 2**_BITS).round() / 2**_BITS, exponent.to(torch.int64))
    mantissa, exponent = torch.frexp(1 / a)
    # If 1 / a is rounded down to so few bits, it is exact: a b has 26 bits and differs from 1.
    b = ulps.times_power((mantissa * 2**_BITS).ceil() / 2**_BITS, exponent.to(torch.int64))
    return a, b


def _is_fine(link: Link, stack: ModelStack) -> bool:
    """Whether products with two factors are exact, and slopes may shrink by 1 / (a b)."""
    for layer in (link.before, link.after):
        mantissa, exponent = torch.frexp(stack.state[layer.named("weight")].to(torch.float64))
        few_bits = (mantissa * 2**24).frac() == 0
        if not bool(
            (few_bits & (exponent >= -125) & (exponent <= 128)).logical_or(mantissa == 0).all()
        ):
            return False
    for layer in link.between:
        if type(layer.module) in activation.SLOPES:
            low, high = _slopes(layer, stack)
            if bool((low > 0).any()) or bool((high < 0).any()):
                return False
    return True


def _is_ordinary(weight: Tensor) -> Tensor:
    """Models (S,) whose entries are 0 or far from float64's limits: no factor changes that."""
    size = weight.abs().flatten(1)
    return ((size == 0) | ((size > 2.0**-900) & (size < 2.0**900))).all(1)
