"""Sets of points: what they hold, that parts do not matter, and what is refused."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lipdescent.bounds._measured import of_the_machine
from lipdescent.plugins import lookup
from lipdescent.points import (
    _parts,
    convex_combinations,
    data,
    gaussian,
    gaussian_noise,
    grid,
    pgd,
    saved,
)
from lipdescent.stacks.model_stack import ModelStack

F64 = torch.float64


def points(count: int, *shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *shape, generator=generator, dtype=F64)


def stack(make_stack, inputs: int = 3, count: int = 2) -> ModelStack:
    def build():
        return nn.Sequential(nn.Linear(inputs, 8), nn.ReLU(), nn.Linear(8, 4))

    return make_stack(build, count, (inputs,))


INPUTS = {"train": points(50, 3), "test": points(20, 3, seed=1)}


def test_subsets_are_of_the_data_and_differ_by_seed(make_stack):
    nets = stack(make_stack)
    whole = data.draw(nets, INPUTS)
    assert all(torch.equal(whole[split].whole(), INPUTS[split]) for split in INPUTS)
    some = data.draw(nets, INPUTS, seed=3, num_points=7)["train"]
    assert some.count == len(some.whole()) == 7
    rows = {tuple(row) for row in INPUTS["train"].tolist()}
    assert len({tuple(row) for row in some.whole().tolist()} & rows) == 7
    assert not torch.equal(
        some.whole(), data.draw(nets, INPUTS, seed=4, num_points=7)["train"].whole()
    )


def test_pooled_is_one_set(make_stack):
    found = data.draw(stack(make_stack), INPUTS, pooled=True)
    assert list(found) == ["train+test"]
    assert torch.equal(found["train+test"].whole(), torch.cat(list(INPUTS.values())))


def test_s_star_has_as_many_points_as_in_the_paper(make_stack):
    inputs = {"train": points(4000, 3), "test": points(1000, 3)}
    found = convex_combinations.draw(stack(make_stack), inputs, num_pairs=100_000)
    assert sum(one.count for one in found.values()) == 1_005_000
    parts = list(found["test"].parts())
    assert sum(map(len, parts)) == found["test"].count
    assert max(map(len, parts)) <= _parts.PART_POINTS


def test_combinations_lie_between_points_of_their_own_split(make_stack):
    inputs = {"train": torch.zeros(30, 3, dtype=F64), "test": torch.ones(30, 3, dtype=F64)}
    found = convex_combinations.draw(stack(make_stack), inputs, num_pairs=9)
    assert not found["train"].whole().any()
    torch.testing.assert_close(found["test"].whole(), torch.ones(30 + 45, 3, dtype=F64))


def test_noise_has_its_size_and_stays_at_the_data_with_none(make_stack):
    nets, inputs = stack(make_stack), {"": points(4000, 3)}
    exact = gaussian_noise.draw(nets, inputs, radius=0.0, num_copies=2)[""]
    assert torch.equal(exact.whole(), inputs[""].repeat(2, 1))
    noisy = gaussian_noise.draw(nets, inputs, radius=0.25, num_copies=2)[""].whole()
    moved = noisy - inputs[""].repeat(2, 1)
    assert moved.std() == pytest.approx(0.25, rel=0.03)
    assert not torch.equal(moved[:4000], moved[4000:])


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_attacks_stay_inside_lower_the_margin_and_are_each_models_own(make_stack, norm):
    nets, labels = stack(make_stack, count=3), {"train": torch.arange(50) % 4}
    found = pgd.draw(nets, {"train": INPUTS["train"]}, labels=labels, radius=0.5, norm=norm)
    moved = found["train"].whole()
    assert found["train"].own
    assert moved.shape == (3, 50, 3)
    order = 2 if norm == "l2" else torch.inf
    assert torch.linalg.vector_norm(moved - INPUTS["train"], ord=order, dim=-1).max() <= 0.5
    exact = nets.to(dtype=F64)
    own = torch.stack([exact[i : i + 1](x)[0] for i, x in enumerate(moved)])
    before, after = (_margin(out, labels["train"]) for out in (exact(INPUTS["train"]), own))
    assert (after < before).double().mean() > 0.95
    alone = pgd.draw(nets[2:], {"train": INPUTS["train"]}, labels=labels, radius=0.5, norm=norm)
    torch.testing.assert_close(alone["train"].whole()[0], moved[2])


def _margin(logits, labels):
    own = nn.functional.one_hot(labels, logits.shape[-1]).bool().expand_as(logits)
    return logits[own].view(logits.shape[:2]) - logits.masked_fill(own, -torch.inf).amax(-1)


def test_attacks_without_labels_go_against_the_prediction(make_stack):
    nets = stack(make_stack, count=1)
    inputs = {"train": INPUTS["train"]}
    predicted = {"train": nets(INPUTS["train"].float())[0].argmax(-1)}
    without, given = (pgd.draw(nets, inputs, labels=labels) for labels in (None, predicted))
    assert torch.equal(without["train"].whole(), given["train"].whole())


def test_a_grid_is_every_combination_of_its_axes(make_stack):
    inputs = {"": torch.tensor([[0.0, -1.0], [2.0, 3.0]])}
    found = grid.draw(stack(make_stack, 2), inputs, num_per_axis=5)["grid"]
    wanted = list(itertools.product(np.linspace(0, 2, 5), np.linspace(-1, 3, 5)))
    assert found.count == 25
    np.testing.assert_allclose(found.whole().numpy(), np.array(wanted), atol=1e-15)
    box = grid.draw(stack(make_stack, 2), inputs, num_per_axis=3, low=-1.0, high=1.0)["grid"]
    assert set(box.whole().flatten().tolist()) == {-1.0, 0.0, 1.0}


def test_a_grid_of_many_parts_is_the_grid(make_stack, monkeypatch):
    nets = stack(make_stack)
    whole = grid.draw(nets, INPUTS, num_per_axis=6)["grid"].whole()
    monkeypatch.setattr(grid, "PART_POINTS", 7)
    assert torch.equal(grid.draw(nets, INPUTS, num_per_axis=6)["grid"].whole(), whole)


def test_points_of_files(make_stack, tmp_path):
    nets, wanted = stack(make_stack), points(6, 3)
    np.save(tmp_path / "a.npy", wanted.numpy())
    save_file({"near": wanted.float(), "far": 2 * wanted}, tmp_path / "a.safetensors")
    assert torch.equal(saved.draw(nets, {}, path=tmp_path / "a.npy")["saved"].whole(), wanted)
    found = saved.draw(nets, {}, path=str(tmp_path / "a.safetensors"))
    assert torch.equal(found["near"].whole(), wanted.float().double())
    assert torch.equal(found["far"].whole(), 2 * wanted)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 4)), r"torch.float64 \(3, 4\), expected floating-point \(n, 3\)"),
        (np.zeros((3, 3), int), "int64"),
        (np.zeros((0, 3)), r"\(0, 3\)"),
        (np.full((2, 3), np.nan), "NaN or infinity"),
    ],
)
def test_files_of_other_points_are_refused(make_stack, tmp_path, array, message):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=message):
        saved.draw(stack(make_stack), {}, path=tmp_path / "a.npy")


def test_a_file_that_is_another_than_was_asked_for_ends_the_job(make_stack, tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 3)))
    told = hashlib.sha256(path.read_bytes()).hexdigest()[:32]
    assert saved.draw(stack(make_stack), {}, path=path, path_digest=told)["saved"].count == 2
    np.save(path, np.ones((2, 3)))
    with pytest.raises(OSError, match=rf"a\.npy: its digest is .*, and {told} is asked for") as end:
        saved.draw(stack(make_stack), {}, path=path, path_digest=told)
    assert of_the_machine(end.value)


def test_other_files_are_refused(make_stack, tmp_path):
    with pytest.raises(ValueError, match=r"a\.csv'.*\.npy and \.safetensors"):
        saved.draw(stack(make_stack), {}, path=tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (data, {"num_points": 0}, "num_points = 0"),
        (convex_combinations, {"num_pairs": 0}, "num_pairs = 0"),
        (convex_combinations, {"lambdas": [1.5]}, r"1\.5; allowed are numbers in \[0, 1\]"),
        (gaussian, {"num_points": 0}, "num_points = 0"),
        (gaussian_noise, {"radius": -1.0}, r"radius = -1\.0"),
        (gaussian_noise, {"num_copies": 0}, "num_copies = 0"),
        (grid, {"num_per_axis": 2000}, r"8e\+09 points of 3 dimensions"),
        (grid, {"low": 9.0}, r"low = 9\.0"),
    ],
)
def test_mistakes_are_named(make_stack, module, options, message):
    with pytest.raises(ValueError, match=message):
        module.draw(stack(make_stack), INPUTS, **options)


@pytest.mark.usefixtures("random_state_untouched")
@pytest.mark.parametrize("name", [n for n in lookup.known("points") if n != "saved"])
def test_the_same_twice_and_without_data_an_error(make_stack, name):
    module = lookup.resolve("points", name)
    nets = stack(make_stack)
    first, again = (module.draw(nets, INPUTS, seed=5) for _ in range(2))
    for split, one in first.items():
        assert torch.equal(one.whole(), again[split].whole())
        assert torch.equal(one.whole(), one.whole())
        assert one.whole().shape[int(one.own)] == one.count
    with pytest.raises(ValueError, match="no split"):
        module.draw(nets, {})


def test_a_set_that_cannot_be_held_says_so(make_stack, monkeypatch):
    monkeypatch.setattr(_parts, "WHOLE_VALUES", 100)
    with pytest.raises(ValueError, match="50 of 3 numbers; allowed are 100"):
        data.draw(stack(make_stack), INPUTS)["train"].whole()


def test_gaussian_points_have_the_datas_own_mean_and_population_deviation(make_stack):
    """Of two points a and b that is |a - b| / 2, not |a - b| / sqrt 2."""
    two = torch.tensor([[0.0, 10.0, -1.0], [2.0, 10.0, 5.0]], dtype=F64)
    found = gaussian.draw(stack(make_stack), {"train": two}, num_points=20_000)["train"].whole()
    torch.testing.assert_close(found.mean(0), two.mean(0), rtol=0, atol=0.1)
    deviation = torch.tensor([1.0, 0.0, 3.0], dtype=F64)
    torch.testing.assert_close(found.std(0), deviation, rtol=0.03, atol=0)


def test_attacks_are_the_same_in_parts(make_stack, monkeypatch):
    """Every point has its own start and label, whichever part it is in."""
    nets, labels = stack(make_stack), {"train": torch.arange(50) % 4, "test": torch.arange(20) % 4}
    options = {"labels": labels, "steps": 2, "num_points": 11, "seed": 5}
    whole = {split: drawn.whole() for split, drawn in pgd.draw(nets, INPUTS, **options).items()}
    monkeypatch.setattr(_parts, "PART_POINTS", 4)
    apart = pgd.draw(nets, INPUTS, **options)
    for split in INPUTS:
        assert len(list(apart[split].parts())) == 3
        torch.testing.assert_close(apart[split].whole(), whole[split], rtol=1e-9, atol=0)


def test_an_attack_on_some_of_the_points_goes_against_their_own_labels():
    """Linear networks: each point moves against its label's margin, to where the ball ends."""
    net = ModelStack.from_modules([nn.Linear(2, 2, bias=False)], (2,))
    net.state["weight"] = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=F64)
    inputs = {"train": points(40, 2)}
    labels = torch.arange(40) % 2
    for own in (labels, labels[None]):
        found = pgd.draw(net, inputs, labels={"train": own}, num_points=9, seed=3, radius=0.5)
        index = _parts.chosen(inputs["train"], 9, 3)
        moved = found["train"].whole()[0] - inputs["train"][index]
        assert 0 < labels[index].sum() < 9
        against = torch.where(labels[index] == 0, -1, 1)
        assert (against * moved[:, 0] > 0.4).all()
