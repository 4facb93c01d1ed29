"""A whole update of a stack in two to five kernels, where there are such kernels.

The oracle is an engine's ``accumulate`` and an optimiser's ``step``, which every other training
takes. For networks with one hidden layer those two write and read the hidden activations about
ten times, and launch a dozen kernels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from lipdescent.plugins import lookup
from lipdescent.training.engines.engine import Engine
from lipdescent.training.engines.fused_mlp import StackedMLP
from lipdescent.training.optimizers import SGD, Adam
from lipdescent.training.options import TrainingOptions

logger = logging.getLogger(__name__)

# How the kernels multiply float32 factors: "bf16x6" splits each into three of 8 bits and leaves out
# products of small parts: nearly float32's accuracy, on tensor cores. Triton's "tf32x3" (two of 10
# bits) and "ieee" (no tensor cores) are what benchmarks/ compares it with.
FLOAT32_PRODUCTS = "bf16x6"
MOST_FEATURES, MOST_CLASSES = 128, 32
# Distance from the plain path's gradient, of its norm, at which the kernels are not taken. Products
# of 10 bits move a logit over the ReLU at an output now and then, which is a part of a gradient.
MOST_APART = {"float32": 1e-3, "tf32": 0.2}
TRIED_ROWS = 64  # of a batch, in what is compared before training
MOST_NARROW, MOST_SPANS = 64, 32  # hidden units and spans of an update in two kernels
MOST_REST = 64  # terms, see Tile
MOST_PARTS = 32  # of the hidden units in the forward pass
# Factor of outputs - targets in the gradient, by the number of classes; 0 for the cross-entropy.
LOSSES: dict[str, Callable[[int], float]] = {
    "cross_entropy": lambda classes: 0.0,
    "mean_squared_error": lambda classes: 2.0 / classes,
    "squared_error_sum": lambda classes: 2.0,
}


@dataclass(frozen=True)
class Tile:
    """How one program works.

    Attributes
    ----------
    rows, units : samples and hidden units of a tile, powers of two.
    warps : of 32 threads, that work on it.
    joined : whether products that make logits are two of longer sums; see the kernels.
    parts : most of the features, 1 or 2: less to wait for, or less padding. 3 in the forward pass:
        2, and the products of the second one's parts are one product, if few features are in it.
    stages : of loops: loads that are ahead of their use, and one.
    """

    rows: int
    units: int
    warps: int
    joined: bool = False
    parts: int = 2
    stages: int = 2

    def launch(self, features: int) -> dict[str, int]:
        """What a kernel is told of it."""
        one, two = _two_parts(features) if self.parts > 1 else (_padded(features), 0)
        return {
            "ROWS": self.rows, "UNITS": self.units, "FEATURES": features,
            "FX": _padded(features), "FA": one, "FB": two, "num_warps": self.warps,
            "num_stages": self.stages,
        }  # fmt: skip

    def rest(self, features: int) -> int:
        """Length of the sums where products of the second part's parts are one product; 0 else."""
        rest = 6 * (features - _two_parts(features)[0])
        return _padded(rest) if self.parts == 3 and 0 < rest <= MOST_REST else 0


@dataclass(frozen=True)
class Plan:
    """How the work on one model is cut.

    Attributes
    ----------
    part : hidden units over which one program of the forward pass sums the logits.
    span : samples over which one program of the backward pass sums gradients.
    narrow : an update is two kernels: a span's program makes both passes over all hidden units.
    """

    forward: Tile
    backward: Tile
    part: int
    span: int
    narrow: bool = False

    @classmethod
    def of(cls, width: int, batch: int) -> Plan:
        """By one model's sizes: by the clock, or by the number of models, bits would change.

        Narrow networks are cut in many pieces, for one program alone would take too long.
        """
        units = _padded(width)
        tile = Tile(32, 64, 4) if units > 32 else Tile(16, units, units // 16, parts=1)
        if width <= MOST_NARROW and batch <= tile.rows * MOST_SPANS:
            return cls(tile, tile, part=MOST_NARROW, span=tile.rows, narrow=True)
        part = max(128 if width < 4096 else 256, _up(-(-width // MOST_PARTS), 64))
        forward = Tile(128, 64, 8, joined=True)
        if width >= 4096:
            forward = replace(forward, parts=3, stages=1)
        backward, programs = Tile(64, 64, 4), 64
        if width <= 256:
            forward, backward, programs = Tile(32, 64, 4), Tile(32, 16, 4, parts=1), 128
        pieces = max(1, programs // -(-width // backward.units))
        span = max(64, _up(-(-batch // pieces), backward.rows))
        return cls(forward, backward, part, span)


def fused_step_available(engine: Engine, optimizer: SGD | Adam, options: TrainingOptions) -> bool:
    """True for what the kernels compute, on a device that runs them.

    That is CUDA with Triton, float32 or tf32, SGD, one hidden layer with both biases or none, a
    loss of :data:`LOSSES` without options, few features and classes.
    """
    first = engine.parameters[0]
    on_device = first.device.type == "cuda" and first.dtype == torch.float32
    return on_device and find_spec("triton") is not None and computed(engine, optimizer, options)


def computed(engine: Engine, optimizer: SGD | Adam, options: TrainingOptions) -> bool:
    """The part of :func:`fused_step_available` that is not about the device."""
    if type(engine) is not StackedMLP or type(optimizer) is not SGD:
        return False
    parameters = engine.parameters
    # Two weights, then two biases or none.
    if [p.ndim for p in parameters] not in ([3, 3], [3, 3, 2, 2]):
        return False
    return (
        parameters[0].shape[1] <= MOST_FEATURES
        and parameters[1].shape[1] <= MOST_CLASSES
        and options.loss in LOSSES
        and not options.loss_options
        and options.precision in ("float32", "tf32")
    )


def make_step(
    engine: Engine, optimizer: SGD | Adam, options: TrainingOptions
) -> OneHiddenLayer | None:
    """What ``options.fused_step`` asks for; None, and why is said, where that cannot be had.

    The kernels are compared with the plain path on the machine at hand, with the networks that are
    to be trained: a compiler that makes something else of them is found before training begins.
    """
    if not options.fused_step:
        return None
    if not fused_step_available(engine, optimizer, options):
        logger.warning("no fused step: not for this network, loss, optimiser, precision and device")
        return None
    assert isinstance(engine, StackedMLP)
    assert isinstance(optimizer, SGD)
    step = OneHiddenLayer(engine, optimizer, options)
    try:
        apart = min(step.try_out(engine, optimizer, seed) for seed in range(2))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of a compiler, a driver, a launch: they have no class in common
        reason = f"{type(error).__name__}: {error}"
        logger.warning("no fused step: its kernels do not run here: %s", reason)
        return None
    if apart > MOST_APART[options.precision]:
        logger.warning(
            "no fused step: its gradients are %.1e of their norm from the plain ones", apart
        )
        return None
    return step


class OneHiddenLayer:
    """Updates of the parameters of ``engine``, as its own gradients and ``optimizer`` make them.

    Nothing is allocated in a step, and nothing waits for the device.
    """

    def __init__(
        self,
        engine: StackedMLP,
        optimizer: SGD,
        options: TrainingOptions,
        *,
        plan: Plan | None = None,
    ) -> None:
        self._kernels: Any = lookup.resolve("fused_steps", "one_hidden_layer")
        self._weights, self._batch_size = engine.parameters, options.batch_size
        self._memory, self._clip = optimizer.memory, optimizer.gradient_clip
        self._buffers = optimizer.buffers
        first, last, *biases = self._weights
        self._models, features, self._width = first.shape
        classes = last.shape[1]
        self._plan = plan or Plan.of(self._width, options.batch_size)
        self._parts = -(-self._width // self._plan.part)
        self._spans = -(-options.batch_size // self._plan.span)
        self._num_tiles = -(-self._width // self._plan.backward.units)
        padded = _padded(classes)
        self._classes = {"C": classes, "CP": padded, "BIAS": bool(biases)}
        self._loss = {"LOSS": LOSSES[options.loss](classes), "SLOPE": engine.output_slope}
        self._rule = {"MOMENTUM": optimizer.momentum, "DECAY": optimizer.weight_decay}
        self._features = features
        self._products = "tf32" if options.precision == "tf32" else FLOAT32_PRODUCTS
        # Both split, for the tensor cores; what is padding stays zero.
        split = self._products == "bf16x6"
        dtype = torch.bfloat16 if split and not self._kernels.INTERPRETED.value else first.dtype
        sizes = 3 if split else 1, self._models, options.batch_size
        self._inputs = first.new_zeros(*sizes, _padded(features), dtype=dtype)
        self._slopes = first.new_zeros(*sizes, padded, dtype=dtype)
        # Of the logits, where their sum over the hidden units is in several parts.
        parts = self._parts if self._parts > 1 else 0
        self._sums = first.new_empty(parts, *sizes[1:], padded)
        self._squares = first.new_empty(self._models * self._num_tiles)
        # Of the gradients, where their sum over the batch is in several spans.
        self._by_span = self._buffers
        if self._spans > 1 or self._plan.narrow:
            self._by_span = [b.new_empty(self._spans, *b.shape) for b in self._buffers]

    def __call__(self, inputs: Tensor, targets: Tensor, rate: Tensor) -> None:
        """One update; shapes as in ``Engine.accumulate`` and ``SGD.step``."""
        x = inputs.flatten(2)
        if x.stride()[1:] != (x.shape[2], 1):
            x = x.contiguous()
        if self._plan.narrow:
            self.both_passes(x, targets, rate)
            self.clipped_spans(rate)
            return
        self.forward(x, targets)
        self.backward(x.shape[1], rate)
        if self._spans > 1:
            self.add_spans(rate)
        if self._clip is not None:
            self.clipped_step(rate)

    def try_out(self, engine: StackedMLP, optimizer: SGD, seed: int) -> float:
        """A first update, so that no error comes later; only before training begins.

        On drawn inputs and labels, at rate 1, so that it is not lost in the rounding of weights;
        then everything is as before.

        Returns
        -------
        float
            Largest l2 distance of a model's update from the plain one, of the plain one's norm.
            Models whose plain update is zero or not finite do not count.

        Raises
        ------
        Exception
            Whatever Triton raises where it cannot compile its kernels, or launch them.
        """
        first, last = self._weights[:2]
        draws = torch.Generator().manual_seed(seed)
        rows, classes = min(self._batch_size, TRIED_ROWS), last.shape[1]
        x = torch.randn(self._models, rows, first.shape[1], generator=draws).to(first)
        labels = torch.randint(classes, (self._models, 1, rows), generator=draws)
        targets = (labels == torch.arange(classes)[:, None]).to(first).mT
        rate = first.new_ones(self._models)
        before = [weight.clone() for weight in self._weights]

        def taken_back() -> Tensor:
            moved = [w - old for w, old in zip(self._weights, before, strict=True)]
            for weight, old in zip(self._weights, before, strict=True):
                weight.copy_(old)
            for memory in self._memory:
                memory.zero_()
            return torch.cat([m.flatten(1) for m in moved], 1)

        self(x, targets, rate)
        fused = taken_back()
        engine.accumulate(optimizer.buffers, x, targets, decay=optimizer.decay)
        optimizer.step(self._weights, rate, 0)
        plain = taken_back()
        norms = plain.norm(dim=1)
        apart = ((fused - plain).norm(dim=1) / norms).nan_to_num(nan=torch.inf)
        return float(torch.where(norms.isfinite() & (norms > 0), apart, 0.0).amax())

    def forward(self, x: Tensor, targets: Tensor) -> None:
        """Slopes of the mean loss at the logits."""
        tile, whole, batch = self._plan.forward, self._parts == 1, x.shape[1]
        weights = _four(self._weights)
        units = min(self._plan.part, _up(self._width, tile.units))
        self._kernels.forward[(self._models, -(-batch // tile.rows), self._parts)](
            x, *weights, self._inputs, self._slopes if whole else self._sums, targets, batch,
            self._width, units, x.stride(0), *targets.stride(), **self._classes, **self._loss,
            **tile.launch(self._features), PRODUCTS=self._products, WHOLE=whole,
            JOINED=tile.joined,
            FJ=tile.rest(self._features) if self._products == "bf16x6" else 0,
        )  # fmt: skip
        if not whole:
            self._kernels.add_parts[(self._models, -(-batch // 4))](
                self._sums, self._slopes, weights[-1], targets, batch, self._parts,
                *targets.stride(), **self._classes, **self._loss, PRODUCTS=self._products, ROWS=4,
                PARTS=MOST_PARTS, num_warps=4,
            )  # fmt: skip

    def backward(self, batch: int, rate: Tensor) -> None:
        """Gradients, by span if there are several; else into the buffers, or the step at once.

        Of the ``batch`` samples that the forward pass has left.
        """
        tile = self._plan.backward
        keep = self._spans > 1 or self._clip is not None
        rule = dict.fromkeys(self._rule, 0.0) if keep else self._rule  # less to compile
        self._kernels.backward[(self._models, self._num_tiles, self._spans)](
            self._inputs, *_four(self._weights), self._slopes, *_four(self._by_span), self._squares,
            rate, batch, self._plan.span, self._width,
            **self._classes, **rule, **tile.launch(self._features),
            PRODUCTS=self._products, KEEP=keep,
        )  # fmt: skip

    def add_spans(self, rate: Tensor) -> None:
        """Gradients of the whole batch into the buffers, or the step at once."""
        features = self._features
        self._kernels.add_spans[(self._models, self._num_tiles)](
            *_four(self._weights), *_four(self._by_span), *_four(self._buffers), self._squares,
            rate, self._width,
            FEATURES=features, FP=_padded(features), **self._classes, **self._rule,
            UNITS=self._plan.backward.units, SPANS=self._spans, KEEP=self._clip is not None,
            num_warps=4,
        )  # fmt: skip

    def clipped_step(self, rate: Tensor) -> None:
        """Scale the buffers to the largest norm, and make the step."""
        assert self._clip is not None
        features, units = self._features, 64
        self._kernels.clipped_step[(self._models, -(-self._width // units))](
            *_four(self._weights), *_four(self._buffers), *_four(self._memory), self._squares,
            rate, self._num_tiles, self._width, float(self._clip),
            FEATURES=features, FP=_padded(features), **self._classes, **self._rule,
            UNITS=units, TILES=512, num_warps=4,
        )  # fmt: skip

    def both_passes(self, x: Tensor, targets: Tensor, rate: Tensor) -> None:
        """Gradients by span, of a narrow network."""
        tile = self._plan.backward
        self._kernels.both_passes[(self._models, self._spans)](
            x, *_four(self._weights), self._inputs, self._slopes, targets, *_four(self._by_span),
            self._squares, rate, x.shape[1], self._width, _up(self._width, tile.units),
            self._num_tiles, x.stride(0), *targets.stride(), **self._classes, **self._loss,
            SPAN=self._plan.span, JOINED=tile.joined, PRODUCTS=self._products,
            **tile.launch(self._features),
        )  # fmt: skip

    def clipped_spans(self, rate: Tensor) -> None:
        """The step by gradients that were taken by span, clipped or not, of a narrow network."""
        features = self._features
        self._kernels.clipped_spans[(self._models,)](
            *_four(self._weights), *_four(self._by_span), *_four(self._memory), rate, self._width,
            0.0 if self._clip is None else float(self._clip),
            FEATURES=features, FP=_padded(features), **self._classes, **self._rule,
            UNITS=_padded(self._width), SPANS=self._spans, CLIP=self._clip is not None,
            num_warps=8,
        )  # fmt: skip


def _four(tensors: list[Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """First weights and biases, last weights and biases, as kernels take them; any for biases where
    there are none, for they are not read then."""
    weights, biases = tensors[:2], tensors[2:] or tensors[:2]
    return weights[0], biases[0], weights[1], biases[1]


def _up(count: int, step: int) -> int:
    """The least multiple of ``step`` from ``count`` on."""
    return -(-count // step) * step


def _padded(count: int) -> int:
    """The least power of two that a product of the kernels may have."""
    return max(16, 1 << (count - 1).bit_length())


def _two_parts(count: int) -> tuple[int, int]:
    """Two powers of two that pad ``count`` least, the second 0 where one does."""
    one = _padded(count)
    half = one // 2
    if half < 16 or half + _padded(count - half) >= one:
        return one, 0
    return half, _padded(count - half)
