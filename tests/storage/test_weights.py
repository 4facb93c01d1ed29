"""Weights in every form in which people store them."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lipdescent.storage.weights import fitted, read_weights


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))


def named(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


FORMS = {
    "plain.safetensors": (lambda s: s, []),
    "wrapped.safetensors": (lambda s: named(s, "module."), ["module."]),
    "plain.pt": (lambda s: s, []),
    "lightning.ckpt": (
        lambda s: {"state_dict": named(s, "model."), "epoch": 3, "loops": {"a": [1]}}, ["model."],
    ),
    "loop.pth": (lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}}}, []),
    "loop.tar": (lambda s: {"model": named(s, "module."), "lr": 0.1}, ["module."]),
    "compiled.pt": (lambda s: named(s, "_orig_mod."), ["_orig_mod."]),
    "all.pt": (
        lambda s: {"state_dict": named(s, "model._orig_mod.module.")},
        ["model.", "_orig_mod.", "module."],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_tensors(name, net, tmp_path):
    make, prefixes = FORMS[name]
    held, path = make(net.state_dict()), tmp_path / name
    save_file(held, path) if path.suffix == ".safetensors" else torch.save(held, path)
    state, notes = fitted(read_weights(path), net.state_dict())
    assert notes == [f"prefix {prefix!r} taken off" for prefix in prefixes]
    assert state.keys() == net.state_dict().keys()
    assert all(torch.equal(state[name], t) for name, t in net.state_dict().items())


def test_a_prefix_chooses_and_says_what_it_leaves(net):
    held = named(net.state_dict(), "actor.") | {
        "critic.weight": torch.zeros(2),
        "log": torch.ones(1),
    }
    state, notes = fitted(held, net.state_dict(), prefix="actor.")
    assert state.keys() == net.state_dict().keys()
    assert notes == ["2 tensors without the prefix 'actor.' left out: critic.weight, log"]
    with pytest.raises(
        ValueError, match=r"no name begins with 'agent\.'; the first are actor\.0\."
    ):
        fitted(held, net.state_dict(), prefix="agent.")


def test_a_network_whose_own_names_begin_like_a_prefix():
    net = nn.ModuleDict({"model": nn.Linear(2, 2)})
    state, notes = fitted(net.state_dict(), net.state_dict())
    assert state.keys() == net.state_dict().keys()
    assert notes == []
    state, notes = fitted(named(net.state_dict(), "model."), net.state_dict())
    assert state.keys() == net.state_dict().keys()
    assert len(notes) == 1


def test_names_that_do_not_fit_are_listed(net):
    held = net.state_dict()
    held["more"] = held.pop("3.weight")
    held["0.bias"] = torch.zeros(7)
    with pytest.raises(
        ValueError,
        match=r"missing: 3\.weight; unexpected: more; of another shape: 0\.bias is \(7,\), the "
        r"network's \(4,\)",
    ):
        fitted(held, net.state_dict())


class Hostile:
    """What is executed when a pickle is read."""

    def __reduce__(self):
        return Path.touch, (Path("executed"),)


BAD = {
    "hostile.pt": lambda path, net: torch.save({"weight": Hostile()}, path),
    "module.pt": lambda path, net: torch.save(net, path),
    "script.pt": lambda path, net: torch.jit.save(torch.jit.script(net), path),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_plain_tensor_is_refused_and_never_executed(name, net, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BAD[name](tmp_path / name, net)
    with pytest.raises(ValueError, match=r"holds more than plain tensors.*refused.*allowed is a"):
        read_weights(tmp_path / name)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("held", "match"),
    [
        ([1, 2], "holds a list; allowed is a state_dict"),
        ({"epoch": 3, "w": torch.zeros(1)}, r"holds epoch \(int\); allowed"),
        ({}, "holds nothing; allowed"),
    ],
)
def test_what_is_no_state_dict_is_named(held, match, tmp_path):
    torch.save(held, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=match):
        read_weights(tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_files_that_are_cut_short_or_not_there(suffix, net, tmp_path):
    path = tmp_path / f"w.{suffix}"
    with pytest.raises(ValueError, match=re.escape(f"there is no file {path}")):
        read_weights(path)
    save_file(net.state_dict(), path) if suffix == "safetensors" else torch.save(
        net.state_dict(), path
    )
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_weights(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_weights(path)
