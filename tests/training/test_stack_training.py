"""Stacks against models trained alone in plain PyTorch, resuming, divergence, stopping."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from lipdescent.architectures import mlp
from lipdescent.jobs.progress import Progress
from lipdescent.storage import checkpoints
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import batch_order, initial_stack
from lipdescent.training.engines.choice import split_into_blocks
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import Interrupted, StackTraining

NUM_TRAIN, NUM_CLASSES, SHAPE = 45, 3, (6,)
OPTIONS = TrainingOptions(learning_rate=0.05, batch_size=10, momentum=0.9, schedule="cosine")
EPOCHS = [0, 1, 3, 8]


def build(width=9, depth=1):
    return mlp.build(width, input_shape=SHAPE, num_classes=NUM_CLASSES, depth=depth)


def make_data(labels_per_replica, dtype=torch.float32):
    random = np.random.default_rng(0)
    inputs = torch.tensor(random.standard_normal((NUM_TRAIN, *SHAPE)), dtype=dtype)
    labels = torch.tensor(random.integers(0, NUM_CLASSES, (8, NUM_TRAIN)))[:labels_per_replica]
    return TrainingData(inputs, labels, NUM_CLASSES)


def make(seeds, *, options=OPTIONS, epochs=EPOCHS, dtype=torch.float32, pick=None, builder=build):
    data = make_data(len(seeds) if pick is None else 8, dtype)
    if pick is not None:
        data = TrainingData(data.inputs, data.labels[pick], NUM_CLASSES)
    stack = initial_stack(builder, seeds, SHAPE).to(dtype=dtype)
    return StackTraining(stack, data, seeds=seeds, epochs=epochs, options=options)


def quiet():
    return Progress(1, EPOCHS[-1])


def trained(training, **arguments):
    training.run(progress=quiet(), **arguments)
    return training.result([0.0] * len(training.seeds))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_equals_plain_pytorch(optimizer):
    options = TrainingOptions(
        learning_rate=0.05, batch_size=10, momentum=0.9 * (optimizer == "sgd"), optimizer=optimizer,
        schedule="cosine", weight_decay=0.1,
    )  # fmt: skip
    seeds = [3, 4]
    found = trained(make(seeds, options=options, dtype=torch.float64))
    data = make_data(2, torch.float64)
    for replica, seed in enumerate(seeds):
        stack = initial_stack(build, [seed], SHAPE)
        model = build().double()
        model.load_state_dict({n: t[0].double() for n, t in stack.state.items()})
        kinds = {
            "sgd": partial(torch.optim.SGD, momentum=0.9),
            "adam": torch.optim.Adam,
            "adamw": torch.optim.AdamW,
        }
        step = kinds[optimizer](model.parameters(), lr=0.05, weight_decay=0.1)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(step, T_max=8 * 5)
        for epoch in range(8):
            for batch in batch_order([seed], epoch, NUM_TRAIN)[0].split(10):
                step.zero_grad()
                loss = nn.functional.cross_entropy(
                    model(data.inputs[batch]), data.labels[replica, batch]
                )
                loss.backward()
                step.step()
                decay.step()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(
                found.state[name][-1, replica], parameter.detach(), rtol=1e-8, atol=1e-10
            )


@pytest.mark.parametrize("width", [1, 9, 300])
def test_a_replica_does_not_depend_on_its_stack_mates(width):
    builder = partial(build, width)
    together = trained(make([0, 1, 2, 5, 1], builder=builder))
    alone = trained(make([2], pick=[2], builder=builder))
    for name, tensor in alone.state.items():
        assert torch.equal(tensor[:, 0], together.state[name][:, 2])


@pytest.mark.usefixtures("random_state_untouched")
def test_a_network_that_shares_weights_is_refused():
    def build():
        layer = torch.nn.Linear(4, 4)
        return torch.nn.Sequential(layer, torch.nn.ReLU(), layer)

    with pytest.raises(ValueError, match=r"2\.weight is shared with 0\.weight"):
        initial_stack(build, [0], (4,))


def test_equal_seeds_share_weights_and_batches_but_not_labels():
    found = trained(make([1, 1]))
    weights = found.state["0.weight"]
    assert torch.equal(weights[0, 0], weights[0, 1])
    assert not torch.equal(weights[-1, 0], weights[-1, 1])


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("clip", [None, 0.1])
def test_interrupted_and_resumed_is_bit_identical(tmp_path, optimizer, clip):
    options = TrainingOptions(
        learning_rate=0.05, batch_size=10, momentum=0.9, optimizer=optimizer, gradient_clip=clip
    )
    whole = trained(make([0, 1], options=options))
    state = tmp_path / "run.state"
    for _ in range(20):
        asked = iter([False, True])
        training = make([0, 1], options=options)
        try:
            training.run(
                progress=quiet(),
                state_path=state,
                should_stop=lambda asked=asked: next(asked, True),
            )
        except Interrupted:
            continue
        break
    else:
        pytest.fail("never ended")
    resumed = training.result([0.0, 0.0])
    assert training.curves == make_curves(options)
    for name, tensor in whole.state.items():
        assert torch.equal(tensor, resumed.state[name])


def make_curves(options):
    training = make([0, 1], options=options)
    training.run(progress=quiet())
    return training.curves


def test_a_state_of_another_configuration_or_cut_in_half_is_not_used(tmp_path):
    state = tmp_path / "run.state"
    with pytest.raises(Interrupted):
        make([0]).run(progress=quiet(), state_path=state, should_stop=lambda: True)
    other = TrainingOptions(learning_rate=0.01, batch_size=10)
    expected = trained(make([0], options=other))
    found = trained(make([0], options=other), state_path=state)
    assert torch.equal(found.state["0.weight"], expected.state["0.weight"])
    state.write_bytes(state.read_bytes()[:100])
    found = trained(make([0], options=other), state_path=state)
    assert torch.equal(found.state["0.weight"], expected.state["0.weight"])


def test_a_diverged_replica_is_marked_and_its_mates_go_on():
    training = make([0, 1, 2])
    with torch.no_grad():
        training.blocks[0].engine.parameters[0][1] = float("nan")
    found = trained(training)
    assert found.diverged_epoch.tolist() == [-1, 0, -1]
    expected = trained(make([0, 1, 2]))
    for name, tensor in expected.state.items():
        assert torch.equal(tensor[:, [0, 2]], found.state[name][:, [0, 2]])
        assert not found.state[name][-1, 1].isfinite().all() or name != "0.weight"


def test_stopping_freezes_a_replica_where_its_gradient_is_small():
    options = TrainingOptions(
        learning_rate=0.1,
        batch_size=10,
        stopping={"gradient_norm": 0.2, "min_epochs": 2, "check_every": 1},
    )
    epochs = [0, *range(1, 61)]
    training = make([0, 1, 2], options=options, epochs=epochs)
    found = trained(training)
    stops = found.stopped_epoch.tolist()
    assert any(2 <= stop < 60 for stop in stops)
    for replica, stop in enumerate(stops):
        if stop >= 0:
            weights = found.state["0.weight"][:, replica]
            assert torch.equal(weights[stop], weights[-1])
            assert not torch.equal(weights[stop - 1], weights[stop])


def test_gradient_norms_equal_autograd():
    training = make([0, 1], dtype=torch.float64)
    found = torch.cat([block.gradient_norms() for block in training.blocks])
    data = make_data(2, torch.float64)
    for replica, seed in enumerate([0, 1]):
        model = build().double()
        state = initial_stack(build, [seed], SHAPE).state
        model.load_state_dict({n: t[0].double() for n, t in state.items()})
        nn.functional.cross_entropy(model(data.inputs), data.labels[replica]).backward()
        expected = nn.utils.get_total_norm([p.grad for p in model.parameters()])
        torch.testing.assert_close(found[replica], expected)


def test_blocks_cover_every_replica_once():
    stack = initial_stack(partial(build, 4000), list(range(7)), SHAPE)
    options = TrainingOptions(learning_rate=0.05, batch_size=100)
    parts = split_into_blocks(stack, options, torch.device("cpu"))
    covered = [i for part in parts for i in range(part.start, part.stop)]
    assert covered == list(range(7))
    assert len(parts) > 1


def test_result_is_written_and_read_back(tmp_path):
    found = trained(make([0, 1]))
    checkpoints.write(tmp_path / "run.safetensors", found)
    again = checkpoints.read(tmp_path / "run.safetensors")
    assert again.epoch.tolist() == EPOCHS
    assert all(torch.equal(again.state[n], t) for n, t in found.state.items())
    assert again.flat_state()["0.weight"].shape[0] == len(EPOCHS) * 2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_cuda_follows_the_cpu():
    cpu = trained(make([0, 1]))
    data = make_data(2)
    data = TrainingData(data.inputs.cuda(), data.labels.cuda(), NUM_CLASSES)
    training = StackTraining(
        initial_stack(build, [0, 1], SHAPE), data, seeds=[0, 1], epochs=EPOCHS, options=OPTIONS
    )
    gpu = trained(training)
    for name, tensor in cpu.state.items():
        torch.testing.assert_close(gpu.state[name].cpu(), tensor, rtol=1e-3, atol=1e-4)


def image_training(seeds, options, pick):
    def build_cnn():
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(),
            nn.MaxPool2d(4), nn.Flatten(), nn.Linear(12, NUM_CLASSES),
        )  # fmt: skip

    random = np.random.default_rng(1)
    images = torch.tensor(random.standard_normal((NUM_TRAIN, 1, 8, 8)), dtype=torch.float32)
    labels = torch.tensor(random.integers(0, NUM_CLASSES, (4, NUM_TRAIN)))[pick]
    stack = initial_stack(build_cnn, seeds, (1, 8, 8))
    data = TrainingData(images, labels, NUM_CLASSES)
    return StackTraining(stack, data, seeds=seeds, epochs=EPOCHS, options=options)


@pytest.mark.parametrize("augmentation", [None, {"padding": 2}])
def test_a_convolutional_replica_does_not_depend_on_its_stack_mates(augmentation):
    options = TrainingOptions(
        learning_rate=0.05, batch_size=10, momentum=0.9, augmentation=augmentation
    )
    together = trained(image_training([0, 1, 2], options, [0, 1, 2]))
    alone = trained(image_training([1], options, [1]))
    for name, tensor in alone.state.items():
        torch.testing.assert_close(
            tensor[:, 0].float(), together.state[name][:, 1].float(), rtol=1e-4, atol=1e-5
        )
    assert (together.state["1.num_batches_tracked"][-1] == 8 * 5).all()
    assert not torch.equal(together.state["1.running_mean"][0], together.state["1.running_mean"][1])


def test_augmentation_changes_training():
    plain = TrainingOptions(learning_rate=0.05, batch_size=10)
    augmented = TrainingOptions(learning_rate=0.05, batch_size=10, augmentation={"padding": 2})
    weights = [
        trained(image_training([0], options, [0])).state["0.weight"][-1]
        for options in (plain, augmented)
    ]
    assert not torch.equal(*weights)


def test_a_stopped_model_keeps_its_batchnorm_statistics():
    def build():
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))

    stack = initial_stack(build, [0, 1], (3,))
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(20, 3, generator=generator)
    data = TrainingData(inputs, torch.randint(2, (2, 20), generator=generator), 2)
    options = TrainingOptions(learning_rate=0.1, batch_size=5)
    training = StackTraining(stack, data, seeds=[0, 1], epochs=[0, 9], options=options)
    training.one_epoch()
    before = training.blocks[0].engine.state()
    training.stopped[0] = training.epoch
    training.one_epoch()
    after = training.blocks[0].engine.state()
    for name, tensor in after.items():
        assert torch.equal(tensor[0], before[name][0]), name
    for name in ("1.running_var", "1.num_batches_tracked", "3.weight"):
        assert not torch.equal(after[name][1], before[name][1]), name
