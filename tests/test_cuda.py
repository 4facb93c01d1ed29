"""The checks of cuda_checks.py on a CUDA device, and on a pretended one (pretend_cuda.py)."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import cuda_checks
import pytest
import torch
from cuda_checks import DOMAINS
from pretend_cuda import PretendCuda, unwatched

from lipdescent.bounds.lipsdp import blocks, channel_scales
from lipdescent.study.training_section import TrainingSection

ROOT = Path(__file__).parents[1]
# About real memory, the same as float32 on any other device, or of torch.export, which follows
# tensors through functions that the pretended device stands in for.
ONLY_ON_CUDA = ("out of memory", "precision tf32", *(f"exported graph: {d}" for d in DOMAINS))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("check", cuda_checks.CHECKS)
def test_on_cuda(check):
    cuda_checks.CHECKS[check]("cuda")


@pytest.fixture
def little(monkeypatch):
    """Every operation on the pretended device is watched in Python: fewer of the same.

    What the device's results are compared with is the CPU's alone.
    """
    monkeypatch.setattr(cuda_checks, "reference", unwatched)
    monkeypatch.setattr(cuda_checks, "SAMPLES", 15)  # two updates an epoch
    monkeypatch.setattr(cuda_checks, "EPOCHS", (0, 1, 2))
    monkeypatch.setattr(cuda_checks, "MODELS", 2)
    monkeypatch.setattr(blocks, "STEPS", 2)  # of a search, on the device and on the CPU
    monkeypatch.setattr(channel_scales, "STEPS", channel_scales.SCREEN_EVERY + 1)
    # Three residual blocks in place of eight, of either kind.
    few = ("resnet_cifar", 2, (3, 8, 8), {"blocks": 1})
    monkeypatch.setitem(cuda_checks.NETWORKS, "resnet18", few)
    return {"graphs equal plain steps": {"updates": 2}, "precision bfloat16": {"last": 5}}


@pytest.mark.parametrize("check", [c for c in cuda_checks.CHECKS if c not in ONLY_ON_CUDA])
def test_on_a_pretended_device(check, little):
    with PretendCuda():
        cuda_checks.CHECKS[check]("cuda", **little.get(check, {}))


@pytest.mark.parametrize("check", ["graphs equal plain steps", "no waiting: cnn", "bound: LipSDP"])
def test_on_the_second_of_two_pretended_devices(check, little):
    with PretendCuda(count=2):
        cuda_checks.CHECKS[check]("cuda:1", **little.get(check, {}))


def test_every_option_of_training_is_tried_on_a_device():
    """What no check tries fails first in a study: an order for all models did."""
    tried = set(cuda_checks.ADAM) | {"precision", "channels_last", "fused_step"}
    for _, options in cuda_checks.AXES.values():
        tried |= set(options)
    # Arithmetic of one number, on the host; what is given to every check.
    elsewhere = {"schedule_options", "loss_options", "betas", "learning_rate", "batch_size"}
    fields = {field.name for field in dataclasses.fields(TrainingSection)}
    assert fields - elsewhere - {"momentum"} == tried


def test_the_gpu_script_needs_nothing_but_torch_and_numpy(tmp_path):
    """It runs where nothing can be installed; a rehearsal of one section on the CPU."""
    out = str(tmp_path / "a.md")
    absent = ("pytest", "pyarrow", "safetensors", "yaml", "snakemake", "scipy", "sklearn", "pandas")
    code = (
        f"import runpy, sys; sys.modules.update(dict.fromkeys({absent!r}))\n"
        f"sys.argv = {['gpu.py', '--device', 'cpu', '--only', 'peaks', '--out', out]}\n"
        f"runpy.run_path({str(ROOT / 'benchmarks/gpu.py')!r}, run_name='__main__')"
    )
    command, environment = [sys.executable, "-c", code], os.environ | {"OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = str(ROOT / "benchmarks")
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = (tmp_path / "a.md").read_text()
    assert "Tflop/s" in written
    assert "failed" not in written


def test_the_second_half_takes_the_checks_that_failed_in_the_first(tmp_path):
    import gpu

    page = tmp_path / "gpu1.md"
    rows = ["| check | result | seconds |", "|---|---|---|", "| a: cnn | passed | 1.0 |"]
    rows += ["| bound: LipSDP | FAILED: nan | 2.0 |", "| c | not run: x | 0.1 |"]
    page.write_text("\n".join(["## Checks", "", *rows, ""]))
    assert gpu.failed_checks(page) == {"bound: LipSDP"}
    assert gpu.failed_checks(tmp_path / "none.md") == set()
    known = {section.__name__ for section in gpu.SECTIONS}
    assert set(gpu.HALVES[1]) | set(gpu.HALVES[2]) | {"peaks", "fused_tiles"} == known
    assert {path.stem for path in (ROOT / "config/studies").glob("*.yaml")} >= {
        name.partition(", ")[0] for name in gpu.PROJECTED
    }


def test_kernels_of_the_papers_networks_are_counted():
    """Or the estimate of their hours ends in an error, as it did."""
    import expected_cost

    names = [p.stem for p in (ROOT / "config/studies").glob("*.yaml") if "_small" not in p.stem]
    for name in names:
        if name.startswith(("ks_", "gamba_", "nakkiran_")):
            config = expected_cost.study(name)
            for architecture in config["grid"]["architecture"]:
                module = config["architectures"][architecture].get("module", architecture)
                assert module in expected_cost.KERNELS, (name, module)


def test_numbers_of_a_gpu_are_those_of_its_page(tmp_path):
    """docs/numbers/gpu.json is what benchmarks/gpu_numbers.py takes from the page kept here."""
    import json

    import gpu_numbers

    stored = json.loads((ROOT / "docs/numbers/gpu.json").read_text())["texts"]
    page = (ROOT / "benchmarks/measured/h100.md").read_text()
    found = gpu_numbers.texts(page)
    assert {key: found[key] for key in stored} == stored
    rows = found["checks"]["rows"]
    assert len(rows) > 50
    assert stored["checks_passed"] == f"{len(rows)} of {len(rows)}"


def test_the_gpu_script_leaves_out_what_has_no_time(tmp_path):
    import gpu

    report = gpu.Report(tmp_path / "a.md", torch.device("cpu"), minutes=0)
    for section in (gpu.checks, gpu.projections, gpu.bounds):
        section(report)
    assert (tmp_path / "a.md").read_text().count("Left out") == 3


def test_multiplications_by_hand():
    from lipdescent.architectures import cnn
    from lipdescent.stacks.workload import multiplications

    net = cnn.build(5, input_shape=(3, 32, 32), num_classes=10)
    assert multiplications(net, (3, 32, 32)) == 27728 * 5 + 55296 * 25
    assert multiplications(torch.nn.Linear(7, 3), (7,)) == 21
