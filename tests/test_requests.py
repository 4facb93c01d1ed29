"""What jobs ask for follows from the networks: counts against closed forms."""

import copy
import itertools
import json
import math
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from lipdescent.jobs import resources
from lipdescent.plugins import lookup
from lipdescent.stacks import operation_counts
from lipdescent.study import asked_once, network_costs
from lipdescent.study.config import prepare
from lipdescent.study.runs import runs_of

ROOT = Path(__file__).parents[1]
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())


def counted(module, width, shape, classes=10, **options):
    build = partial(
        lookup.resolve("architectures", module).build,
        width,
        input_shape=shape,
        num_classes=classes,
        **options,
    )
    return operation_counts.count(build, shape, num_classes=classes)[0]


@pytest.mark.parametrize("width", [3, 8, 4000])
def test_an_mlp_by_hand(width, random_state_untouched):
    cost = counted("mlp", width, (40,), depth=2)
    weights = 40 * width + width**2 + width * 10
    assert (cost.parameters, cost.products, cost.fixed_products) == (weights, weights, 0)
    assert cost.activations == 4 * width + 10  # before and after each ReLU; logits
    assert cost.operations == 5


def test_a_cnn_by_hand():
    cost = counted("cnn_batchnorm", 4, (3, 8, 8), pools=[1, 2, 2, 2])
    sides, channels = (8, 8, 4, 2), (3, 4, 8, 16, 32)
    pairs = list(itertools.pairwise(channels))
    weights = [9 * a * b for a, b in pairs]
    products = sum(w * side**2 for w, side in zip(weights, sides, strict=True)) + 32 * 10
    assert cost.products == products
    biases_and_norms = sum(3 * b for _, b in pairs)
    assert cost.parameters == sum(weights) + biases_and_norms + 32 * 10 + 10


def test_published_counts():
    """ResNet18 for CIFAR: 11.17 million weights and 0.56 thousand million multiply-adds."""
    cost = counted("resnet18", 64, (3, 32, 32))
    assert cost.parameters == 11_171_146
    assert cost.products == pytest.approx(0.56e9, rel=0.02)


def test_products_of_attention_and_of_what_is_no_layer_count():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(6, 5))

        def forward(self, x):
            square = self.weight @ self.weight.T  # per pass, not per sample
            return torch.einsum("bi,oi->bo", x, self.weight) @ square

    cost, _ = operation_counts.count(Own, (5,), num_classes=6)
    assert cost.fixed_products == 6 * 6 * 5
    assert cost.products == 6 * 5 + 6 * 6


def test_meta_and_cpu_count_alike(monkeypatch):
    on_cpu = counted("resnet18", 4, (3, 8, 8))
    monkeypatch.setattr(operation_counts, "SMALL", 0)
    assert counted("resnet18", 4, (3, 8, 8)) == on_cpu


def test_a_network_that_needs_numbers_to_be_built_is_counted_all_the_same():
    def build():
        layer = nn.Linear(4, 2)
        layer.weight.data *= layer.weight.norm().item()  # the meta device has no number
        return layer

    assert operation_counts.count(build, (4,), num_classes=2)[0].products == 8


@pytest.mark.parametrize(("module", "shape"), [("mlp", (40,)), ("cnn", (3, 8, 8))])
def test_widths_between_the_counted_ones(module, shape):
    options = {} if module == "mlp" else {"pools": [1, 2, 2, 2]}
    widths = [1, 2, 5, 9, 17, 30]
    nodes = network_costs.counted_widths(widths)
    assert {nodes[0], nodes[-1]} == {1, 30}
    assert len(nodes) == network_costs.COUNTED_WIDTHS
    known = [(w, counted(module, w, shape, **options)) for w in nodes]
    for width in widths:
        assert network_costs._between(width, known) == counted(module, width, shape, **options)


def study(tmp_path, monkeypatch, **changes):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(network_costs, "_FOUND", {})
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import count_networks

    asked = []

    def count(networks):
        asked.extend(networks)
        return [count_networks.found(json.loads(json.dumps(asdict(n)))) for n in networks]

    monkeypatch.setattr(network_costs, "_count", count)
    config = copy.deepcopy(DEFAULT)
    for section, entries in changes.items():
        config[section] |= entries
    checked = {"figures": config["figures"], "comparisons": []}
    schema = ROOT / "workflow/schemas/config.schema.yaml"
    return prepare(config, schema=schema, **checked), asked


def test_a_short_training_of_a_small_network_asks_for_little(tmp_path, monkeypatch):
    """5 epochs of an MLP on 3 x 8 x 8 images once asked for 1,062 minutes and 6.4 GB."""
    config, _ = study(
        tmp_path, monkeypatch,
        grid={"dataset": ["cifar10"], "epoch": [0, 5], "width": [64, 512]},
        datasets={"cifar10": {"image_size": 8}},
    )  # fmt: skip
    wide, narrow = (resources.train(config, [run]) for run in runs_of(config))
    # 30 models x 50,000 samples x 5 epochs x 3 passes x 103,424 products, at 2e9 a second: 20 min.
    products = 30 * 50_000 * 5 * 3 * (192 + 10) * 512 / resources.CPU_RATE / 60
    assert products < wide["runtime"] - resources.START_MINUTES < 3 * products
    assert narrow["runtime"] < 20
    assert wide["mem_mb"] <= 2700


def test_what_was_counted_is_kept(tmp_path, monkeypatch):
    config, asked = study(tmp_path, monkeypatch, grid={"width": [4, 8]})
    first = [resources.train(config, [run]) for run in runs_of(config)]
    assert len(asked) == 2
    network_costs._FOUND.clear()
    assert [resources.train(config, [run]) for run in runs_of(config)] == first
    assert len(asked) == 2
    (asked_once.FOLDER / "networks.json").write_text("{broken")
    network_costs._FOUND.clear()
    assert [resources.train(config, [run]) for run in runs_of(config)] == first
    assert len(asked) == 4


def test_where_nothing_can_be_counted_something_is_asked_for(tmp_path, monkeypatch):
    config, _ = study(tmp_path, monkeypatch)
    monkeypatch.setattr(network_costs, "_count", lambda _: [])
    needs = resources.train(config, runs_of(config))
    assert 2000 < needs["mem_mb"] < 100_000
    assert math.isfinite(needs["runtime"])


def test_a_branch_that_the_compiler_runs_is_no_mistake():
    class Branch(nn.Linear):
        def forward(self, x):
            return torch.cond(x.sum() > 0, super().forward, lambda x: -x[:, :3], (x,))

    cost, _ = operation_counts.count(lambda: Branch(5, 3), (5,), num_classes=3)
    assert cost.parameters == 18
