"""What must hold on a CUDA device, as plain functions of the device's name.

test_cuda.py runs them under pytest, benchmarks/gpu.py on a machine that has none. On "cpu" they
run too, as far as they make sense there, so that they are known to work.
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import torch
from log_lines import logged
from small_budgets import SMALL

from lipdescent.bounds import upper_block_lipsdp, upper_geolip, upper_layer_product, upper_lipsdp
from lipdescent.bounds.jacobians.norms import jacobian_norms
from lipdescent.jobs import device as devices
from lipdescent.jobs.progress import Progress
from lipdescent.measurement import Measurement
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training import block as block_module
from lipdescent.training.block import Block, TrainingData
from lipdescent.training.draws import augmentation_draws, batch_order, initial_stack
from lipdescent.training.engines import fused_cnn
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import StackTraining

SEEDS, CLASSES = [0, 1, 2], 4
SAMPLES = 45  # in batches of ten, the last one smaller
EPOCHS = (0, 1, 3)
MODELS = 3  # whose bounds are compared
NETWORKS = {
    "mlp": ("mlp", 6, (5,), {}),
    "conv1d": ("conv1d", 3, (40,), {}),
    "cnn": ("cnn", 2, (3, 8, 8), {}),
    "cnn by rows": ("cnn", 8, (3, 8, 8), {}),
    "cnn_batchnorm": ("cnn_batchnorm", 2, (3, 8, 8), {}),
    "resnet18": ("resnet18", 2, (3, 8, 8), {"batchnorm": True}),
    "vit": ("vit", 4, (3, 16, 16), {"blocks": 2, "heads": 2, "head_width": 4}),
}


def reference() -> contextlib.AbstractContextManager[None]:
    """Around what is the CPU's alone; the pretended device does not watch it (test_cuda.py)."""
    return contextlib.nullcontext()


def builder(network: str):
    name, width, shape, options = NETWORKS[network]
    build = lookup.resolve("architectures", name).build
    return partial(build, width, input_shape=shape, num_classes=CLASSES, **options), shape


def training(
    network: str, place: str, *, dtype=torch.float64, samples=None, epochs=None, **options
):
    build, shape = builder(network)
    samples = samples or SAMPLES
    with reference():
        draws = torch.Generator().manual_seed(0)
        inputs = torch.randn(samples, *shape, generator=draws, dtype=torch.float64).to(dtype)
        labels = torch.randint(CLASSES, (len(SEEDS), samples), generator=draws)
        drawn = initial_stack(build, SEEDS, shape)
    settings = {"learning_rate": 0.02, "batch_size": 10, "momentum": 0.9} | options
    data = TrainingData(inputs.to(place), labels.to(place), CLASSES)
    return StackTraining(
        drawn,
        data,
        seeds=SEEDS,
        epochs=list(epochs or EPOCHS),
        options=TrainingOptions(**settings),
    )


def trained(subject: StackTraining, **arguments) -> tuple[dict[str, torch.Tensor], str]:
    """Checkpoints by name, and what was said."""
    with logged() as said:
        subject.run(progress=Progress(len(SEEDS), 3), **arguments)
    return subject.result([0.0] * len(SEEDS)).state, "\n".join(said)


def on_the_cpu(network: str, **options) -> dict[str, torch.Tensor]:
    """Checkpoints by name, of training there."""
    with reference():
        return trained(training(network, "cpu", **options))[0]


def close(found: dict, expected: dict, tolerance: float) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name].double(), tensor.double(), rtol=0, atol=tolerance)


def follows_the_cpu(place: str, network: str) -> None:
    """Three epochs in float64: 1e-8."""
    close(trained(training(network, place))[0], on_the_cpu(network), 1e-8)


def fused_convolutions_follow_the_cpu(place: str) -> None:
    """Three epochs in float64: 1e-8, by the passes that are taken on a CPU alone so far."""
    with mock.patch.object(fused_cnn, "ON_CUDA", True):
        subject = training("cnn by rows", place)
        assert isinstance(subject.blocks[0].engine, fused_cnn.StackedCNN)
        found, _ = trained(subject)
    close(found, on_the_cpu("cnn by rows"), 1e-8)


ADAM = {
    "optimizer": "adam", "gradient_clip": 0.5, "augmentation": {"padding": 2},
    "weight_decay": 1e-3, "schedule": "cosine",
}  # fmt: skip


def follows_the_cpu_with_adam_clipping_and_augmentation(place: str) -> None:
    found, _ = trained(training("cnn", place, **ADAM))
    close(found, on_the_cpu("cnn", **ADAM), 1e-8)


def graphs_equal_steps(place: str, updates: int = block_module.UPDATES_PER_GRAPH) -> None:
    """Two whole graphs of updates, a rest and a smaller last batch, against plain steps."""
    count, samples = 2 * updates + 2, 20 * updates + 15
    subject = training("cnn_batchnorm", place, samples=samples, augmentation={"padding": 1})
    block, twin = (
        Block(initial(subject), subject.data, slice(0, 3), subject.options) for _ in "ab"
    )
    for epoch in (0, 1):
        order = batch_order(SEEDS, epoch, samples).to(place)
        draws = augmentation_draws(SEEDS, epoch, samples, padding=1, flip=True).to(place)
        rates = torch.full((count, 3), 0.01, dtype=torch.float64, device=place)
        with mock.patch.object(block_module, "UPDATES_PER_GRAPH", updates):
            block.run_epoch(order, rates, count * epoch, draws)
        twin._steps(order, rates, count * epoch, draws=draws)
    close(block.engine.state(), twin.engine.state(), 1e-10)
    if torch.device(place).type == "cuda":
        kinds = {type(graph).__name__ for graph in block._graphs.values()}
        assert kinds == {"UpdateGraph"}, f"a graph could not be captured: {kinds}"
        assert sorted(block._graphs) == [15, 10 * updates], sorted(block._graphs)


def initial(subject: StackTraining) -> ModelStack:
    block = subject.blocks[0]
    states = [b.engine.state() for b in subject.blocks]
    state = {name: torch.cat([s[name] for s in states]) for name in states[0]}
    return ModelStack(block.module, state, block.input_shape)


def nothing_waits_in_an_epoch(place: str, network: str) -> None:
    """Once captured, an epoch of any network makes the host wait nowhere."""
    subject = training(network, place, dtype=torch.float32, epochs=(0, 10**6))
    subject.one_epoch()
    if torch.device(place).type != "cuda":
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(2):
            subject.one_epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def precision_keys(place: str, precision: str, last: int = 20) -> None:
    """Weights stay float32, the loss falls, and results are near float32's but not equal."""
    dtype = devices.set_precision(precision)
    try:
        assert dtype == torch.float32
        options = {"dtype": dtype, "epochs": (0, 1, last)}
        low = training("cnn_batchnorm", place, precision=precision, **options)
        state, _ = trained(low)
    finally:
        devices.set_precision("float32")
    expected, _ = trained(training("cnn_batchnorm", place, **options))
    assert all(t.dtype == expected[n].dtype for n, t in state.items())
    first, last = low.curves[0][1:], low.curves[-1][1:]
    assert all(b < a for a, b in zip(first, last, strict=True)), (first, last)
    # After five updates: later on, training amplifies any difference.
    weights = [n for n, t in state.items() if t.is_floating_point()]
    distance = sum((state[n][1] - expected[n][1]).norm() ** 2 for n in weights) ** 0.5
    moved = sum((expected[n][1] - expected[n][0]).norm() ** 2 for n in weights) ** 0.5
    assert distance < 0.3 * moved, f"{precision}: off by {distance / moved:.2g} of the way"
    if precision == "bfloat16":
        assert distance > 0


def channels_last_changes_nothing(place: str, network: str) -> None:
    """As the CPU computes it without."""
    found, _ = trained(training(network, place, channels_last=True))
    close(found, on_the_cpu(network), 1e-8)


def fused_step_follows_the_plain_one(place: str, options: dict) -> None:
    """15 updates in float32, the last of an epoch on a smaller batch: 1e-5 of what is trained."""
    plain, _ = trained(training("mlp", place, dtype=torch.float32, **options))
    subject = training("mlp", place, dtype=torch.float32, fused_step=True, **options)
    found, said = trained(subject)
    close(found, plain, 1e-5)
    if torch.device(place).type == "cuda" and _computes():
        assert subject.blocks[0].fused_step is not None, said
        kinds = {type(graph).__name__ for graph in subject.blocks[0]._graphs.values()}
        assert kinds == {"UpdateGraph"}, f"a graph could not be captured: {kinds}"
        again, _ = trained(training("mlp", place, dtype=torch.float32, fused_step=True, **options))
        assert all(torch.equal(tensor, again[name]) for name, tensor in found.items())


def _computes() -> bool:
    """Whether Triton is there, and a device that is not pretended."""
    there = find_spec("triton") is not None and torch.version.cuda is not None
    return there and torch._C._cuda_getDeviceCount() > 0


def resumes_bit_identically(place: str) -> None:
    from lipdescent.training.stack_training import Interrupted

    whole, _ = trained(training("cnn_batchnorm", place))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.state"
        with contextlib.suppress(Interrupted):
            trained(training("cnn_batchnorm", place), state_path=path, should_stop=lambda: True)
        found, said = trained(training("cnn_batchnorm", place), state_path=path)
    assert "going on from epoch 1" in said
    for name, tensor in whole.items():
        assert torch.equal(found[name], tensor), name


def too_little_memory_halves_blocks(place: str) -> None:
    """A real one: the process may use little more than what is taken already."""
    if torch.device(place).type != "cuda":
        return
    samples, options = 1024, {"batch_size": 512, "dtype": torch.float32, "epochs": (0, 1)}
    expected, _ = trained(training("resnet18", place, samples=samples, **options))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    subject = training("resnet18", place, samples=samples, **options)
    _, total = torch.cuda.mem_get_info()
    before = torch.cuda.memory_reserved()
    subject.run(progress=Progress(3, 1))
    needed = torch.cuda.max_memory_reserved() - before
    del subject
    torch.cuda.empty_cache()
    limit = torch.cuda.memory_reserved() + 0.7 * needed
    torch.cuda.set_per_process_memory_fraction(limit / total)
    try:
        small = training("resnet18", place, samples=samples, **options)
        found, said = trained(small)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory: 3 models at once are too many" in said, said
    close(found, expected, 1e-3)


def models(network: str) -> ModelStack:
    build, shape = builder(network)
    with reference():
        return initial_stack(build, list(range(MODELS)), shape).to(dtype=torch.float64)


def bounds_equal_the_cpu(place: str, bound: str) -> None:
    """To 1e-9 relative; every one of them is certified on its own device."""
    functions = {
        "layer product": ("resnet18", upper_layer_product.layer_product),
        "layer product of 1-D convolutions": ("conv1d", upper_layer_product.layer_product),
        "block LipSDP": ("resnet18", upper_block_lipsdp.block_lipsdp),
        "LipSDP": ("mlp", lambda s: next(upper_lipsdp.measure(s, norms=["l2"])).values),
        "GeoLIP": ("mlp", partial(upper_geolip.per_logit, tolerance=1e-6)),
        "Jacobian, chain": ("mlp", _norms),
        "Jacobian, CNN": ("cnn", _norms),
        "Jacobian, ResNet": ("resnet18", _norms),
        "Jacobian, ViT": ("vit", _norms),
    }
    network, function = functions[bound]
    stack = models(network)
    found = function(stack.to(device=place)).cpu()
    with reference():
        expected = function(stack)
    tolerance = 1e-4 if bound == "LipSDP" else 1e-9  # LipSDP stops within 1e-4 of its optimum
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=0)


CLOSED_FORMS = (
    "lower_jacobian", "lower_convex_combinations", "lower_gaussian", "lower_pairs",
    "upper_layer_product", "upper_combettes_pesquet", "upper_eclipse_fast",
)  # fmt: skip


def every_measurement_equals_the_cpu(place: str, name: str) -> None:
    """A bound of the folder on an MLP, all its norms and quantities, as a study measures it."""
    bound, network = lookup.resolve("bounds", name), models("mlp")
    if name in ("upper_block_lipsdp", "upper_scaled_blocks"):
        network = models("cnn")
    draws = torch.Generator().manual_seed(2)
    points = {
        split: torch.randn(12, *network.input_shape, generator=draws, dtype=torch.float64)
        for split in ("train", "test")
    }
    own = torch.arange(12 * network.num_models).view(-1, 12) % CLASSES
    labels = {"train": own, "test": torch.arange(12) % CLASSES}
    asks = "labels" in inspect.signature(bound.measure).parameters

    def on(device: str) -> list[Measurement]:
        options = {"labels": {k: v.to(device) for k, v in labels.items()}} if asks else {}
        inputs = {k: v.to(device) for k, v in points.items()}
        stack = network.to(device=device)
        few = SMALL.get(name, {})
        return list(
            bound.measure(stack, inputs=inputs, norms=bound.NORMS, seed=3, **few, **options)
        )

    found = on(place)
    with reference():
        expected = on("cpu")
    assert len(found) == len(expected) > 0
    assert {m.values.device.type for m in found} == {torch.device(place).type}
    # What iterates stops within its tolerance of the optimum, wherever rounding leads it.
    tolerance = 1e-9 if name in CLOSED_FORMS else 1e-3
    for a, b in zip(found, expected, strict=True):
        assert (a.quantity, a.direction, a.norm, a.split) == (
            b.quantity, b.direction, b.norm, b.split
        )  # fmt: skip
        torch.testing.assert_close(
            a.values.cpu(), b.values.cpu(), rtol=tolerance, atol=0, equal_nan=True
        )


class Branches(torch.nn.Module):
    """As users write networks: a functional forward with branches, a gate and a normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(5, 8), torch.nn.Linear(8, 8)
        self.norm, self.last = torch.nn.LayerNorm(8, eps=0.1), torch.nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.nn.functional.gelu(self.first(x))
        h = h + torch.tanh(self.second(h)) * 0.5
        h = self.norm(h) * torch.sigmoid(self.second(torch.tanh(h)))
        return self.last(torch.cat([h[..., :4], h[..., 4:].abs()], -1))


DOMAINS = {
    "everywhere": None,
    "box": {"box": [-1.0, 1.0]},
    "ball": {"ball": {"radius": 0.1, "norm": "l2"}},
}
# The gap ends the search on a box before any clock does, so that both devices make the same parts.
ANY_NETWORK = {"upper_graph": {"gap": 30.0}, "upper_layer_product": {}, "lower_jacobian": {}}


def brackets_equal_the_cpu(place: str, domain: str, *, exported: bool) -> None:
    """Of a chain or an exported graph: what methods say, upper bounds to 1e-9, and their order."""
    import lipdescent

    points = torch.rand(6, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) - 0.5

    def on(device: str):
        network = Branches() if exported else builder("mlp")[0]()
        return lipdescent.bracket(
            network.double().eval().to(device),
            (5,),
            data=points,
            methods=ANY_NETWORK,
            domain=DOMAINS[domain],
            budget=10.0,
        )

    torch.manual_seed(0)

    found = on(place)
    torch.manual_seed(0)
    with reference():
        expected = on("cpu")
    columns = ["quantity", "direction", "norm", "status", "split"]
    assert found.table[columns].equals(expected.table[columns]), found.table
    upper = found.table.quantity.str.startswith("upper").to_numpy()
    values = (torch.tensor(b.table.value.to_numpy(float)[upper]) for b in (found, expected))
    torch.testing.assert_close(*values, rtol=1e-9, atol=0, equal_nan=True)
    assert 0 < found.lower <= found.upper < float("inf"), found


# Axes of the papers' studies: the network, and the options beside those of `training`.
AXES: dict[str, tuple[tuple, dict]] = {
    "dropout": (("mlp", 6, (5,), {"dropout": 0.3}), {}),
    "layer clip": (("mlp", 6, (5,), {}), {"layer_clip": 0.5}),
    "penalty": (
        ("mlp", 6, (5,), {}),
        {"penalty": {"kind": "mean_squared_jacobian", "coefficient": 0.1}},
    ),
    "squared loss, AdamW": (
        ("cnn", 2, (3, 8, 8), {}),
        {"loss": "mean_squared_error", "optimizer": "adamw", "weight_decay": 0.1},
    ),
    "one order for all, stopping": (
        ("mlp", 6, (5,), {}),
        {
            "batch_order": "fixed",
            "stopping": {"gradient_norm": 0.2, "check_every": 1},
        },
    ),
    "adversary": (
        ("mlp", 6, (5,), {}),
        {"adversary": {"norm": "linf", "radius": 0.1, "steps": 2}},
    ),
    "Parseval": (("mlp", 6, (5,), {}), {"parseval": 0.1}),
    "two hidden layers": (("mlp", 6, (5,), {"depth": 2, "bias": True}), {}),
    "1-Lipschitz layers": (
        ("lipschitz_mlp", 4, (5,), {"depth": 2, "constraint": "bjorck", "iterations": 5}),
        {},
    ),
    "bi-Lipschitz ResNet": (
        (
            "bilipschitz_resnet", 2, (1, 6, 6),
            {"coefficient": 0.9, "batchnorm": True, "stages": 1, "blocks": 1},
        ),
        {},
    ),
}  # fmt: skip


def axes_follow_the_cpu(place: str, axis: str) -> None:
    """Three epochs in float64: 1e-8. None launches its kernels one by one for want of a graph."""
    network, options = AXES[axis]
    NETWORKS[axis] = network
    try:
        found, said = trained(training(axis, place, **options))
        expected = on_the_cpu(axis, **options)
    finally:
        del NETWORKS[axis]
    close(found, expected, 1e-8)
    assert "no CUDA graph" not in said, said


BOUNDS = (
    "layer product", "layer product of 1-D convolutions", "block LipSDP", "LipSDP", "GeoLIP",
    "Jacobian, chain", "Jacobian, CNN", "Jacobian, ResNet", "Jacobian, ViT",
)  # fmt: skip


def _norms(stack: ModelStack) -> torch.Tensor:
    points = torch.randn(20, *stack.input_shape, generator=torch.Generator().manual_seed(1))
    return torch.stack(list(jacobian_norms(stack, points, norms=["l2", "linf"]).values()))


FUSED = {"momentum": {"weight_decay": 1e-3}, "clipping": {"gradient_clip": 0.1, "momentum": 0.0}}
IMAGES = ("cnn", "cnn_batchnorm", "resnet18")
CHECKS = {
    **{f"follows the CPU: {n}": partial(follows_the_cpu, network=n) for n in NETWORKS},
    "follows the CPU: Adam, clipping, crops": follows_the_cpu_with_adam_clipping_and_augmentation,
    **{f"follows the CPU: {a}": partial(axes_follow_the_cpu, axis=a) for a in AXES},
    "fused convolutions follow the CPU": fused_convolutions_follow_the_cpu,
    "graphs equal plain steps": graphs_equal_steps,
    **{f"no waiting: {n}": partial(nothing_waits_in_an_epoch, network=n) for n in NETWORKS},
    **{f"precision {p}": partial(precision_keys, precision=p) for p in ("tf32", "bfloat16")},
    **{f"channels last: {n}": partial(channels_last_changes_nothing, network=n) for n in IMAGES},
    **{
        f"fused step follows the plain one: {n}": partial(
            fused_step_follows_the_plain_one, options=o
        )
        for n, o in FUSED.items()
    },
    "resumed bit-identically": resumes_bit_identically,
    "out of memory": too_little_memory_halves_blocks,
    **{f"bound: {b}": partial(bounds_equal_the_cpu, bound=b) for b in BOUNDS},
    **{
        f"{what}: {domain}": partial(brackets_equal_the_cpu, domain=domain, exported=exported)
        for what, exported in (("bracket", False), ("exported graph", True))
        for domain in DOMAINS
    },
    **{
        f"measurement: {n}": partial(every_measurement_equals_the_cpu, name=n)
        for n in lookup.known("bounds")
    },
}
