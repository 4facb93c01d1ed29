"""Stacks from files of weights: no weight is rounded, and what does not fit is named."""

import copy
import math
import re
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.storage import stamps
from lipdescent.training.draws import initial_stack
from lipdescent.training.from_files import read_stack

EPOCHS, SEEDS = [0, 3], [5, 6]


class Net(nn.Module):
    """With a counter, and a buffer that no state_dict has."""

    def __init__(self, width):
        super().__init__()
        self.into, self.norm = nn.Linear(3, width), nn.BatchNorm1d(width)
        self.register_buffer("scale", torch.full((width,), 0.1), persistent=False)

    def forward(self, x):
        return self.norm(self.into(x)) * self.scale


@pytest.fixture
def states():
    """By epoch and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = {(e, s): Net(4).state_dict() for e in EPOCHS for s in SEEDS}
    for count, state in enumerate(found.values()):
        state["norm.num_batches_tracked"] += count
    return found


@pytest.fixture
def read(tmp_path):
    """Reads states that it has written, as files of torch.save or safetensors."""

    def stack(states, *, form="pt", like=lambda: Net(4), spoil=None, **options):
        paths = []
        for (epoch, seed), state in states.items():
            path = tmp_path / f"{epoch}-{seed}.{form}"
            save_file(state, path) if form == "safetensors" else torch.save(state, path)
            paths.append(path)
        digests = {str(path): stamps.file_digest(path) for path in paths}
        if spoil is not None:
            spoil(paths)
        networks = initial_stack(like, SEEDS, (3,))
        return read_stack(networks, digests, epochs=EPOCHS, seeds=SEEDS, **options)

    return stack


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_every_tensor_is_in_its_place(states, read, form):
    saved = read(states, form=form)
    assert saved.epoch.tolist() == EPOCHS
    assert saved.seed.tolist() == SEEDS
    assert saved.label_noise.tolist() == [0, 0]
    for e, epoch in enumerate(EPOCHS):
        for s, seed in enumerate(SEEDS):
            for name, tensor in states[epoch, seed].items():
                assert torch.equal(saved.state[name][e, s], tensor)
    assert torch.equal(saved.state["scale"], torch.full((2, 2, 4), 0.1))
    ModelStack(Net(4), saved.flat_state(), (3,))  # names and shapes are those of the network
    assert saved.diverged_epoch.tolist() == saved.stopped_epoch.tolist() == [-1, -1]


def test_one_file_of_doubles_makes_doubles_of_all_and_rounds_none(states, read):
    third = torch.full((4,), 1 / 3, dtype=torch.float64)
    states[3, 6]["into.bias"] = third
    saved = read(states)
    assert torch.equal(saved.state["into.bias"][1, 1], third)
    assert {t.dtype for t in saved.state.values()} == {torch.float64, torch.int64}
    weight = states[0, 5]["into.weight"]
    assert torch.equal(saved.state["into.weight"][0, 0], weight.double())
    # A buffer of the code's own is that float32 number, not a nearer double.
    assert torch.equal(saved.state["scale"][0, 0].float().double(), saved.state["scale"][0, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_number_of_two_bytes_is_held_as_it_is(dtype, tmp_path):
    """All 65,536, subnormal ones included, against Python's own reading of their bytes."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    path = tmp_path / "all.pt"
    torch.save({"weight": bits.view(dtype)[None]}, path)
    like = ModelStack.from_modules([nn.Linear(2**16, 1, bias=False)], (2**16,))
    digests = {str(path): stamps.file_digest(path)}
    found = read_stack(like, digests, epochs=[1], seeds=[0]).state["weight"].flatten()
    assert found.dtype == torch.float32
    for bit, value in zip(bits.tolist(), found.tolist(), strict=True):
        if dtype == torch.float16:
            (expected,) = struct.unpack("<e", struct.pack("<h", bit))
        else:
            (expected,) = struct.unpack("<f", b"\0\0" + struct.pack("<h", bit))
        assert value == expected or (math.isnan(value) and math.isnan(expected))
        assert math.copysign(1, value) == math.copysign(1, expected) or math.isnan(value)


def test_a_network_with_weights_that_are_not_finite_has_diverged(states, read, caplog):
    states[0, 6]["into.bias"][2] = math.inf
    states[3, 6]["into.bias"][0] = math.nan  # from 0 on
    states[3, 5]["into.weight"][1, 1] = math.nan
    states[3, 5]["norm.bias"][0] = math.nan
    with caplog.at_level("INFO"):
        saved = read(states)
    assert saved.diverged_epoch.tolist() == [3, 0]
    assert "3-5.pt: diverged: into.weight, norm.bias not finite" in caplog.text


def test_weights_that_are_there_twice_are_told(states, read, caplog):
    """As of a loop that keeps its state_dict without a copy; they are taken as they are."""
    with caplog.at_level("WARNING"):
        read(states)
        assert not caplog.text
        states[3, 5] = states[0, 5]
        read(states)
        assert "3-5.pt has the same weights as" in caplog.text
        assert "0-5.pt: is that meant?" in caplog.text
        caplog.clear()
        read(dict.fromkeys(states, states[0, 6]))
    assert re.search(r"3-5\.pt has the .*0-5\.pt, and 3 more like this", caplog.text)


def test_names_in_wrappers_and_prefixes_are_found(states, read, caplog):
    held = {
        key: {"state_dict": {f"net.{name}": tensor for name, tensor in state.items()}, "epoch": 3}
        for key, state in states.items()
    }
    with pytest.raises(ValueError, match=r"the prefix 'net\.' \(.*checkpoints\.prefix\) would"):
        read(held)
    saved = read(held, prefix="net.")
    assert torch.equal(saved.state["into.bias"][0, 1], states[0, 6]["into.bias"])


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("into.bias", torch.zeros(8), r"into\.bias is \(8,\), the network's \(4,\)"),
        ("into.bias", None, r"missing: into\.bias"),
        ("more", torch.zeros(1), r"unexpected: more"),
        (
            "into.bias",
            torch.zeros(4, dtype=torch.int8),
            r"into\.bias is torch\.int8; allowed is torch\.float64, torch\.float32, torch\.bf",
        ),
        (
            "into.bias",
            torch.zeros(4).to_sparse(),
            r"bias is torch\.float32 and torch\.sparse",
        ),
        ("into.bias", torch.zeros(4, dtype=torch.complex64), r"is torch\.complex64; allowed"),
        ("into.bias", torch.zeros(4, device="meta"), r"bias is torch\.float32 without values"),
        (
            "norm.num_batches_tracked",
            torch.tensor(3.5),
            r"norm\.num_batches_tracked is torch\.float32; allowed is torch\.int64",
        ),
    ],
)
def test_every_file_that_does_not_fit_is_named_with_the_tensor(name, tensor, message, states, read):
    wrong = copy.deepcopy(states)
    for key in ((0, 6), (3, 5)):
        wrong[key] = {k: t for k, t in wrong[key].items() if k != name or tensor is not None}
        if tensor is not None:
            wrong[key][name] = tensor
    with pytest.raises(ValueError, match=message) as found:
        read(wrong)
    first, second = str(found.value).splitlines()
    assert "0-6.pt: " in first
    assert "3-5.pt: " in second


def test_a_network_of_another_width_or_depth_is_refused(states, read):
    with pytest.raises(ValueError, match=r"0-5\.pt: .*into\.weight is \(4, 3\), .* \(8, 3\)"):
        read(states, like=lambda: Net(8))
    with pytest.raises(ValueError, match=r"missing: 0\.weight, 2\.weight; unexpected: into"):
        read(states, like=lambda: mlp.build(4, input_shape=(3,), num_classes=4))


def test_a_file_that_is_being_written_is_not_taken_for_the_one_that_was_asked_for(states, read):
    def overwrite(paths):
        torch.save(states[0, 5], paths[-1])

    with pytest.raises(stamps.OtherRecipe, match=r"3-6\.pt changed since this run began"):
        read(states, spoil=overwrite)

    def cut(paths):
        paths[1].write_bytes(paths[1].read_bytes()[:100])

    with pytest.raises(stamps.OtherRecipe, match=r"0-6\.pt changed since"):
        read(states, spoil=cut)
