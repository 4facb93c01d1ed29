import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from lipdescent.storage import checkpoints
from lipdescent.storage.checkpoints import Checkpoints, Origin, empty_epochs

ABOUT = Origin(
    run={"width": 2},
    module="mlp",
    build={"bias": True},
    training={"loss": "hinge"},
    noise_maker="pair_swap",
    data={"num_train": 5},
    code="ab",
)


def some():
    return Checkpoints(
        state={"0.weight": torch.arange(24.0).view(2, 3, 2, 2)},
        epoch=torch.tensor([0, 4]),
        label_noise=torch.tensor([0.0, 0.1, 0.2], dtype=torch.float64),
        seed=torch.tensor([0, 1, 2]),
        stopped_epoch=empty_epochs(3),
        diverged_epoch=empty_epochs(3),
        about=ABOUT,
    )


def test_round_trip_and_flat_order(tmp_path):
    path = tmp_path / "a" / "run.safetensors"
    checkpoints.write(path, some())
    again = checkpoints.read(path)
    assert again.about == ABOUT
    assert again.num_replicas == 3
    assert torch.equal(again.flat_state()["0.weight"][3 + 1], some().state["0.weight"][1, 1])
    assert list(path.parent.iterdir()) == [path]  # nothing temporary stays


def test_what_was_read_stays_when_the_file_is_cut_afterwards(tmp_path):
    """A mapped file would end the process with SIGBUS: so another process looks."""
    path = tmp_path / "run.safetensors"
    checkpoints.write(path, some())
    again = checkpoints.read(path)
    os.truncate(path, 0)
    child = os.fork()
    if child == 0:
        same = again.state["0.weight"].tolist() == some().state["0.weight"].tolist()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated_files_are_named(tmp_path, keep):
    path = tmp_path / "run.safetensors"
    checkpoints.write(path, some())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"run.safetensors: truncated or not a safetensors file"):
        checkpoints.read(path)


def test_any_flipped_bit_is_noticed_and_the_file_named(tmp_path):
    """In the header and in every tensor, those of a few numbers included."""
    path = tmp_path / "run.safetensors"
    checkpoints.write(path, some())
    whole = path.read_bytes()
    for place in [*range(0, len(whole), 7), len(whole) - 1]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(ValueError, match=r"run\.safetensors: "):
            checkpoints.read(path)
    assert "altered since it was written" in message(path)


def message(path):
    try:
        checkpoints.read(path)
    except ValueError as error:
        return str(error)
    return ""


def test_a_foreign_safetensors_file_is_named(tmp_path):
    path = tmp_path / "resnet.safetensors"
    save_file({"fc.weight": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"resnet.safetensors: not a checkpoint file"):
        checkpoints.read(path)


def test_checkpoints_of_an_earlier_version_are_refused_and_it_is_said_what_to_do(
    tmp_path, monkeypatch
):
    path = tmp_path / "run.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "FORMAT", "lipdescent-checkpoints-2")
        checkpoints.write(path, some())
    with pytest.raises(ValueError, match=r"run\.safetensors: .*checkpoints-2, wanted .*anew"):
        checkpoints.read(path)


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"w": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=r"model.pt"):
        checkpoints.read(path)


def test_checkpoints_without_an_origin_cannot_be_measured():
    assert some().origin == ABOUT
    with pytest.raises(ValueError, match="do not say how their networks were built"):
        _ = replace(some(), about=None).origin
