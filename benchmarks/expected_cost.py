"""Expected training hours of the papers' studies on one H100: an estimate, nothing is measured.

For every width, with all its models in one stack, an update takes the sum of
- its products, forward and twice backward, at RATE: a tenth of an H100's float32 peak (67 Tflop/s)
  for grouped convolutions and small attention, half of it for the wide layers of an MLP;
- its activations, moved PASSES times at BANDWIDTH (three quarters of 3.35 TB/s);
- its kernels, launched from a CUDA graph.
At the largest number of epochs: studies that stop where the gradient is small take less. Bounds are
not in it. benchmarks/gpu.sh measures slices of the same work.

    python benchmarks/expected_cost.py
"""

from __future__ import annotations

import math

from checkout import ROOT

from lipdescent.jobs import resources
from lipdescent.plugins import lookup
from lipdescent.stacks.workload import activation_bytes, multiplications
from lipdescent.study import sections

BANDWIDTH, PASSES, KERNEL_SECONDS = 2.5e12, 8, 3e-6
RATE = {"mlp": 33e12}
OTHER_RATE = 6.7e12
SHAPES = {"mnist1d": (40,), "mnist": (1, 28, 28)}
# Kernels of an update, counted from the layers: forward, backward, gathering, optimiser.
KERNELS = {"mlp": 25, "mlp_of_seed": 25, "cnn": 60, "convnet": 70}
KERNELS |= {"cnn_batchnorm": 90, "resnet18": 350, "vit": 500}


def hours(config: dict) -> float:
    total = 0.0
    for width in config["grid"]["width"]:
        total += sum(
            stack_hours(config, dataset, architecture, width)
            for dataset in config["grid"]["dataset"]
            for architecture in config["grid"]["architecture"]
        )
    return total


def stack_hours(config: dict, dataset: str, architecture: str, width: int) -> float:
    grid, options = config["grid"], sections.training_options(config, architecture)
    models = len(grid["seed"]) * len(grid["label_noise"])
    samples, batch = resources.num_train(config, dataset), options["batch_size"]
    module = config["architectures"][architecture].get("module", architecture)
    shape = SHAPES.get(dataset, (3, 32, 32))
    build = lookup.resolve("architectures", module).build
    built = sections.build_options(config, architecture)
    net = build(width, input_shape=shape, num_classes=10, **built)
    at_once = models * min(batch, samples)
    update = (
        at_once * multiplications(net, shape) * 6 / RATE.get(module, OTHER_RATE)
        + at_once * activation_bytes(net, shape, batch_size=1) * PASSES / BANDWIDTH
        + KERNELS[module] * KERNEL_SECONDS
    )
    return grid["epoch"][-1] * math.ceil(samples / batch) * update / 3600


def study(name: str) -> dict:
    """The configuration of an overlay."""
    import yaml
    from snakemake.utils import update_config

    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    update_config(config, yaml.safe_load((ROOT / f"config/studies/{name}.yaml").read_text()))
    return config


def main() -> None:
    for path in sorted((ROOT / "config/studies").glob("*.yaml")):
        if path.stem.startswith(("ks_", "gamba_", "nakkiran_")) and "_small" not in path.stem:
            print(f"{path.stem:26} {hours(study(path.stem)):8.1f} h")


if __name__ == "__main__":
    main()
