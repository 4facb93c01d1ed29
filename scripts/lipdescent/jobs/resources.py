"""Memory (MB), runtime (minutes) and how they grow with the study, for cluster schedulers.

What a network takes is counted from the network (:mod:`lipdescent.study.network_costs`); the rates
below are measured (see docs/cluster.md) and meant as limits, a few times above what a job takes. A
job that needs more gets more at its next attempt. Never imports torch.
"""

import math
from collections.abc import Iterable
from typing import Any

from lipdescent.jobs.gpus import CONTEXT_MB
from lipdescent.plugins import bound_entries, signatures
from lipdescent.study import network_costs
from lipdescent.study.network_costs import Cost
from lipdescent.study.runs import Run, at
from lipdescent.study.sections import training_options

# Snakemake inside a cluster job (350-380 MB), Python with torch (650-700 MB), and some room.
BASE_MB, CUDA_MB = 2000, 4000
# What measuring works on at a time: parts of points and of models, as large as these limits.
MEASURE_MB = 1000
# Importing torch from a cold shared file system, and waiting for it.
START_MINUTES = 10
# Multiply-adds per second in training: a CPU core measured 3e9 (narrow) to 2e10, a GPU 1e12.
CPU_RATE, GPU_RATE = 2e9, 2e11
# A training step passes forward once, backward twice.
PASSES = 3
# Values per second that element-wise operations write, forward and backward together.
CPU_VALUES, GPU_VALUES = 5e7, 1e10
# Seconds per model and update, and per operation of its forward pass, beside products and values.
UPDATE_SECONDS, OPERATION_SECONDS = 1e-4, 5e-5
# Activations that are worked on at a time on a CPU (lipdescent/training/block.py), and batches that
# are gathered ahead, in bytes.
AT_ONCE_BYTES, GATHERED_BYTES = 16 << 20, 128 << 20
# Seconds per checkpoint and parameter, and per checkpoint: layer products take less, SDPs more.
CHECKPOINT_SECONDS, PARAMETER_SECONDS = 0.02, 2e-5
# Multiply-adds of a sample's pass through a network from which measuring it pays on a GPU: below,
# kernels take longer to launch than the processor to compute. At 4.6e4 (two hidden layers of 192)
# an H100 took about half of a core's time for lower_jacobian, a third for upper_lipsdp, but 56 s
# instead of 39 for the many small steps of an ascent (docs/gpu.md). Several processes (below) are
# faster where their cores are free, but while shorter jobs wait, cores become free one by one.
GPU_PRODUCTS, ASCENT_PRODUCTS = 3e4, 1e6
ASCENTS = ("lower_ascent", "lower_search")
# Seconds of a measurement for which another process pays, a machine's cores for each, and how many
# at most: a few models are not faster than some more. A job of many processes waits until as many
# cores are free, so only the longest have some.
WORKER_SECONDS, CORES_PER_WORKER, MOST_WORKERS = 6, 4, 8
# How many times too many seconds are expected: of a bound from above (of an SDP), and of others.
# What is not counted, per job: the steps of ascents, the starts of others.
TOO_MANY = {"upper": 4, "other": 60}
ASCENT_START, OTHER_START = 4, 2
# Expected seconds of a training on the processor (it takes 1/7 to 1/20 of them) from which a GPU
# pays: in the default study stacks of width 4 to 32 took 6 to 11 s of a core, wider ones 6 s on an
# H100 that four shared (benchmarks/measured/h100.md): CUDA starts, graphs are captured.
GPU_SECONDS = 200
MEMORY_GROWTH, RUNTIME_GROWTH = 1.5, 2.0


def num_train(config: dict[str, Any], dataset: str) -> int:
    """Training points, by the options of the data set, its file, or the data."""
    return network_costs.shape_and_classes(config, dataset)[2] or network_costs.USUAL_POINTS


def _num_values(config: dict[str, Any], dataset: str) -> int:
    """Values of an input."""
    shape = network_costs.shape_and_classes(config, dataset)[0]
    return math.prod(shape or network_costs.USUAL_SHAPE)


def _cost(config: dict[str, Any], run: Run, *, count: bool = True) -> Cost:
    return network_costs.cost(config, run.dataset, run.architecture, run.width, count=count)


def _models(config: dict[str, Any], run: Run) -> int:
    """Models of a stack."""
    return len(run.seeds) * len(config["grid"]["label_noise"])


def train(config: dict[str, Any], runs: Iterable[Run], attempt: int = 1, *, gpus: int = 0) -> dict:
    """Needs of a training job, those of the largest of ``runs``.

    ``gpus`` : that jobs of this study may have; here is known which of them take one.
    """
    needs = [_train(config, run, gpus) for run in runs]
    return _grown(max(n[0] for n in needs), max(n[1] for n in needs), attempt)


def _train(config: dict[str, Any], run: Run, gpus: int) -> tuple[float, float]:
    config = at(config, run)
    gpus = gpus and trains_on_gpu(config, run)
    cost, models = _cost(config, run), _models(config, run)
    epochs, samples = config["grid"]["epoch"], num_train(config, run.dataset)
    options = training_options(config, run.architecture)
    size = 8 if options["precision"] == "float64" else 4
    # Weights, momentum, gradient; every checkpoint, once more stacked, once more being written.
    weights = models * cost.parameters * (4 + 3 * len(epochs)) * size
    # The order of an epoch, drawn and made ready, with crops and labels.
    drawn = models * samples * 8 * (6 if options["augmentation"] else 3)
    data = samples * _num_values(config, run.dataset) * size * 3
    work = 0
    if not gpus:
        batch = min(options["batch_size"], samples)
        one = (batch * cost.activations + cost.fixed_values) * size * PASSES
        at_once = config["execution"]["models_at_once"]
        work = one * min(at_once, models) if at_once else max(one, AT_ONCE_BYTES * PASSES)
    memory = (weights + drawn + data + work + GATHERED_BYTES) / 2**20
    minutes = START_MINUTES + train_seconds(config, run, gpus=gpus) / 60
    return BASE_MB + CUDA_MB * bool(gpus) + memory, minutes


def train_gpu_mb(config: dict[str, Any], run: Run) -> float:
    """Memory of a GPU that a training job takes with all its models at once."""
    config = at(config, run)
    cost, models, samples = _cost(config, run), _models(config, run), num_train(config, run.dataset)
    options = training_options(config, run.architecture)
    size = 8 if options["precision"] == "float64" else 4
    batch = min(options["batch_size"], samples)
    step = models * (batch * cost.activations + cost.fixed_values) * PASSES
    values = step + models * cost.parameters * 4 + samples * _num_values(config, run.dataset)
    return CONTEXT_MB + (values * size + models * samples * 16 + GATHERED_BYTES) / 2**20


def measure_gpu_mb(config: dict[str, Any], run: Run) -> float:
    """Memory of a GPU that a measuring job takes."""
    config = at(config, run)
    models = _models(config, run) * len(config["grid"]["epoch"])
    values = models * _cost(config, run).parameters * 2
    values += 2 * num_train(config, run.dataset) * _num_values(config, run.dataset)
    return CONTEXT_MB + MEASURE_MB + values * 8 / 2**20


def trains_on_gpu(config: dict[str, Any], run: Run) -> bool:
    """Whether a study that has a GPU trains a stack there."""
    wanted = config["execution"]["training_device"]
    if wanted != "auto":
        return wanted == "device"
    options = training_options(at(config, run), run.architecture)
    for_gpus = options["fused_step"] or options["precision"] in ("tf32", "bfloat16")
    return for_gpus or train_seconds(config, run) > GPU_SECONDS


def measures_on_gpu(config: dict[str, Any], run: Run, name: str) -> bool:
    """Whether a study that has a GPU takes the measurement ``name`` of a stack there."""
    wanted = config["execution"]["measuring_device"]
    if wanted == "auto":
        bound = bound_entries.bound_of(name, (config["bounds"].get(name) or {}))
        least = ASCENT_PRODUCTS if bound in ASCENTS else GPU_PRODUCTS
        return _cost(at(config, run), run).products >= least
    return wanted == "device"


def train_seconds(config: dict[str, Any], run: Run, *, gpus: int = 0, count: bool = True) -> float:
    """Expected seconds of training a stack, rather too many.

    Without ``count`` a network that nobody has counted yet is not counted now.
    """
    config = at(config, run)
    cost, samples = _cost(config, run, count=count), num_train(config, run.dataset)
    updates = math.ceil(samples / training_options(config, run.architecture)["batch_size"])
    threads = config["execution"]["threads"]
    rate, values = (GPU_RATE, GPU_VALUES) if gpus else (CPU_RATE * threads, CPU_VALUES)
    overhead = updates * (UPDATE_SECONDS + cost.operations * OPERATION_SECONDS)
    products = samples * cost.products + updates * cost.fixed_products
    # The optimiser passes over the weights as well.
    written = samples * cost.activations + updates * (cost.fixed_values + 3 * cost.parameters)
    epoch = overhead / (10 if gpus else 1) + products * PASSES / rate + written / values
    return _models(config, run) * config["grid"]["epoch"][-1] * epoch


def measure(
    config: dict[str, Any], run: Run, attempt: int = 1, *, gpus: int = 0, name: str = "metrics"
) -> dict:
    """Needs of a measuring job: the quantity ``name`` of every checkpoint of a stack."""
    config = at(config, run)
    gpus = gpus and measures_on_gpu(config, run, name)
    cost, samples = _cost(config, run), num_train(config, run.dataset)
    models = _models(config, run) * len(config["grid"]["epoch"])
    data = 2 * samples * _num_values(config, run.dataset)
    # The checkpoints as they are and lifted to float64; points, labels and what is found of them.
    held = models * cost.parameters * 16 + data * 16 + models * samples * 16
    memory = BASE_MB + CUDA_MB * bool(gpus) + MEASURE_MB + held / 2**20
    seconds = measure_seconds(config, run, name=name)
    return _grown(memory, START_MINUTES + seconds / 60, attempt)


def measure_seconds(
    config: dict[str, Any], run: Run, *, name: str = "metrics", count: bool = True
) -> float:
    """Expected seconds of a measurement of a stack, rather too many."""
    config = at(config, run)
    cost = _cost(config, run, count=count)
    models = _models(config, run) * len(config["grid"]["epoch"])
    rate = CPU_RATE * config["execution"]["threads"]
    sample = cost.products / rate + cost.activations / CPU_VALUES
    passes = _sample_passes(config, run.dataset, name)
    parameters = 0.0 if name == "metrics" else cost.parameters * PARAMETER_SECONDS
    return models * (CHECKPOINT_SECONDS + parameters + passes * sample)


def usual_seconds(config: dict[str, Any], run: Run, *, name: str) -> float:
    """Seconds of a core that a measurement of a stack usually takes, to begin with the longest."""
    bound = bound_entries.bound_of(name, config["bounds"].get(name) or {})
    known = name in config["bounds"]
    is_upper = known and signatures.constant("bounds", bound, "DIRECTION") == "upper"
    start = ASCENT_START if bound in ASCENTS else OTHER_START * (known and not is_upper)
    factor = TOO_MANY["upper" if is_upper else "other"]
    return start + measure_seconds(config, run, name=name) / factor


def measure_workers(config: dict[str, Any], run: Run, *, name: str, cores: int) -> int:
    """Processes that share a measurement of a stack on the processor, of a machine's ``cores``.

    Where a study has more cores than stacks, the last jobs are those of its widest networks, each a
    process that all others wait for. Values do not depend on it.
    """
    is_bound = name in config["bounds"] and "points" not in (config["bounds"][name] or {})
    if not is_bound or config["execution"]["threads"] > 1:
        return 1
    seconds = usual_seconds(config, run, name=name)
    return max(1, min(int(seconds / WORKER_SECONDS), cores // CORES_PER_WORKER, MOST_WORKERS))


def _sample_passes(config: dict[str, Any], dataset: str, name: str) -> float:
    """Forward passes of one sample that a quantity takes, a backward pass counted as two."""
    _, classes, _ = network_costs.shape_and_classes(config, dataset)
    both = 2 * num_train(config, dataset)  # test sets are seldom larger
    if name == "metrics":
        return 2 * both
    if name == "certificates":
        options = config["certificates"]
        return 2 * options["num_points"] * (1 + PASSES * options["attack_steps"])
    if name in config["quantities"]:
        options = signatures.defaults("measurements", name) | config["quantities"][name]
        # A product with the Hessian is a forward pass and two backward ones, each of these twice.
        return both * (PASSES + 2 * PASSES * (options.get("iterations") or 0))
    entry = config["bounds"].get(name, {})
    bound = bound_entries.bound_of(name, entry)
    if signatures.constant("bounds", bound, "DIRECTION") == "upper":
        return 0
    options = signatures.defaults("bounds", bound) | entry
    points = _points_taken(config, dataset, options)
    ascent = (options.get("restarts") or 0) * (options.get("steps") or 0)
    # A Jacobian is a forward pass and a backward one per class; a proof of it takes as much again.
    return (points + 2 * ascent) * (1 + 2 * (classes or network_costs.USUAL_CLASSES)) * 2


def _points_taken(config: dict[str, Any], dataset: str, options: dict[str, Any]) -> int:
    """Points that a bound is taken at; of those in a file, as many as there are data."""
    both = 2 * num_train(config, dataset)
    wanted = options.get("points")
    if wanted is not None:
        options = signatures.defaults("points", wanted) | options.get("points_options", {})
    points = min(both, 2 * (options.get("num_points") or both)) * options.get("num_copies", 1)
    points += 2 * (options.get("num_pairs") or 0) * len(options.get("lambdas", range(5)))
    if "num_per_axis" in options:
        points = options["num_per_axis"] ** _num_values(config, dataset)
    return points


def publish(config: dict[str, Any], runs: Iterable[Run], attempt: int = 1) -> dict:
    """Needs of what reads the whole table: 30 metrics per checkpoint and 4 rows per bound."""
    models = sum(len(run.seeds) for run in runs) * len(config["grid"]["label_noise"])
    rows = models * len(config["grid"]["epoch"]) * (30 + 4 * len(config["bounds"]))
    return _grown(BASE_MB + rows * 250 / 2**20, START_MINUTES + rows / 1e6, attempt)


def _grown(memory: float, minutes: float, attempt: int) -> dict[str, int]:
    return {
        "mem_mb": math.ceil(memory * MEMORY_GROWTH ** (attempt - 1) / 100) * 100,
        "runtime": math.ceil(minutes * RUNTIME_GROWTH ** (attempt - 1)),
    }
