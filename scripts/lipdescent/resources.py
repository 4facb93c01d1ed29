"""Memory (MB), runtime (minutes) and how they grow with the study, for cluster schedulers.

The coefficients are measured (see docs/cluster.md) and meant as limits, a few times above what a
job takes; a job that needs more gets more at its next attempt. Never imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lipdescent.config import Run, training_options

# Snakemake inside a cluster job (350-380 MB), Python with torch (650-700 MB), and some room.
BASE_MB, CUDA_MB = 2000, 4000
# Importing torch from a cold shared file system, and waiting for it.
START_MINUTES = 10
# Multiply-adds per second in training: a CPU core measured 3e9 (narrow) to 2e10, a GPU 1e12.
CPU_RATE, GPU_RATE = 2e9, 2e11
# Seconds per model and update beside its products.
UPDATE_SECONDS = 2e-4
# Seconds per checkpoint and parameter, and per checkpoint: layer products take less, SDPs more.
CHECKPOINT_SECONDS, PARAMETER_SECONDS = 0.02, 2e-5
MEMORY_GROWTH, RUNTIME_GROWTH = 1.5, 2.0

# Values per input and number of training points of datasets where no option says otherwise.
DATASETS = {
    "mnist1d": (40, 4000),
    "digits": (64, 1438),
    "mnist": (784, 60_000),
    "fashion_mnist": (784, 60_000),
    "cifar10": (3072, 50_000),
    "cifar100": (3072, 50_000),
}
UNKNOWN_DATASET = (3072, 60_000)


@dataclass(frozen=True)
class Size:
    """Size at width w of an architecture on 32 x 32 colour images: a * w + b * w**2 of each."""

    parameters: tuple[float, float]
    multiplications: tuple[float, float]  # multiply-adds of one forward pass of one sample
    activations: tuple[float, float]  # values kept for the backward pass, one sample


SIZES = {
    "bilipschitz_resnet": Size((655, 108), (640, 48_384), (11_139, 0)),
    "cnn": Size((107, 378), (27_728, 55_296), (10_000, 0)),
    "cnn_batchnorm": Size((152, 378), (27_728, 55_296), (14_608, 0)),
    "conv1d": Size((58, 6), (145, 45), (73, 0)),
    "convnet": Size((122, 378), (27_728, 55_296), (10_000, 0)),
    "lipschitz_cnn": Size((2594, 360), (27_728, 110_592), (12_000, 0)),
    "resnet18": Size((213, 2724), (27_728, 135_168), (29_712, 0)),
    "torchvision_resnet": Size((377, 2724), (37_712, 8_448), (2_392, 0)),
    "vit": Size((9501, 48), (159_754, 816), (20_000, 0)),
}
DENSE = ("mlp", "lipschitz_mlp")
UNKNOWN_ARCHITECTURE = SIZES["resnet18"]


def size(config: dict[str, Any], architecture: str, dataset: str, width: int) -> tuple[int, ...]:
    """Parameters, multiply-adds per sample and activations per sample of one network."""
    options = config["architectures"][architecture]
    module = options.get("module", architecture)
    num_inputs, _ = DATASETS.get(dataset, UNKNOWN_DATASET)
    if module in DENSE:
        depth = options.get("depth", 1)
        parameters = (num_inputs + 100) * width + (depth - 1) * width**2
        return parameters, parameters * (1 if module == "mlp" else 20), 2 * depth * width
    found = SIZES.get(module, UNKNOWN_ARCHITECTURE)
    # Fewer pixels, fewer products; the parameters stay.
    pixels = 1.0 if module == "conv1d" else min(1.0, num_inputs / 3072 + 0.1)
    parameters, products, activations = (
        a * width + b * width**2
        for a, b in (found.parameters, found.multiplications, found.activations)
    )
    return int(parameters) + 500, int(products * pixels), int(activations * pixels)


def num_train(config: dict[str, Any], dataset: str) -> int:
    """Training points, by the options of the data set or its full size."""
    full = DATASETS.get(dataset, UNKNOWN_DATASET)[1]
    return int(config["datasets"].get(dataset, {}).get("num_train") or full)


def train(config: dict[str, Any], runs: Iterable[Run], attempt: int = 1, *, gpus: int = 0) -> dict:
    """Needs of a training job, those of the largest of ``runs``."""
    needs = [_train(config, run, gpus) for run in runs]
    return _grown(max(n[0] for n in needs), max(n[1] for n in needs), attempt)


def _train(config: dict[str, Any], run: Run, gpus: int) -> tuple[float, float]:
    parameters, _, activations = size(config, run.architecture, run.dataset, run.width)
    models = len(run.seeds) * len(config["grid"]["label_noise"])
    epochs, samples = config["grid"]["epoch"], num_train(config, run.dataset)
    options = training_options(config, run.architecture)
    # Weights, momentum, gradient; every checkpoint, once more stacked, once more being written.
    values = models * parameters * (4 + 3 * len(epochs))
    if not gpus:
        values += models * min(options["batch_size"], samples) * activations * 3
    data = samples * DATASETS.get(run.dataset, UNKNOWN_DATASET)[0] * 4
    memory = BASE_MB + CUDA_MB * bool(gpus) + (values * 4 + data * 3) / 2**20
    return memory, START_MINUTES + train_seconds(config, run, gpus=gpus) / 60


def train_seconds(config: dict[str, Any], run: Run, *, gpus: int = 0) -> float:
    """Expected seconds of training a stack, rather too many."""
    _, products, _ = size(config, run.architecture, run.dataset, run.width)
    models = len(run.seeds) * len(config["grid"]["label_noise"])
    samples = num_train(config, run.dataset)
    updates = math.ceil(samples / training_options(config, run.architecture)["batch_size"])
    rate = GPU_RATE if gpus else CPU_RATE * config["execution"]["threads"]
    overhead = updates * UPDATE_SECONDS / (10 if gpus else 1)
    epochs = config["grid"]["epoch"][-1]
    return models * epochs * (overhead + samples * products * 3 / rate)


def measure(config: dict[str, Any], run: Run, attempt: int = 1, *, gpus: int = 0) -> dict:
    """Needs of a measuring job: one quantity of every checkpoint of a stack."""
    parameters, _, _ = size(config, run.architecture, run.dataset, run.width)
    models = len(run.seeds) * len(config["grid"]["label_noise"]) * len(config["grid"]["epoch"])
    data = num_train(config, run.dataset) * DATASETS.get(run.dataset, UNKNOWN_DATASET)[0] * 4
    # The checkpoints as they are and lifted to float64, and a bound's own working space.
    memory = BASE_MB + CUDA_MB * bool(gpus) + 1000 + (models * parameters * 16 + data * 4) / 2**20
    return _grown(memory, START_MINUTES + measure_seconds(config, run) / 60, attempt)


def measure_seconds(config: dict[str, Any], run: Run) -> float:
    """Expected seconds of a measurement of a stack, rather too many."""
    parameters, _, _ = size(config, run.architecture, run.dataset, run.width)
    models = len(run.seeds) * len(config["grid"]["label_noise"]) * len(config["grid"]["epoch"])
    return models * (CHECKPOINT_SECONDS + parameters * PARAMETER_SECONDS)


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
