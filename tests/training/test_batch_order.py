"""The order of batches: a DataLoader's without shuffling for all, or each seed's own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lipdescent.jobs.progress import Progress
from lipdescent.plugins import lookup
from lipdescent.training import stack_training
from lipdescent.training.block import TrainingData
from lipdescent.training.draws import batch_order, initial_stack
from lipdescent.training.engines.fused_cnn import StackedCNN
from lipdescent.training.engines.fused_mlp import StackedMLP
from lipdescent.training.engines.looped_autograd import LoopedAutograd
from lipdescent.training.engines.stacked_autograd import StackedAutograd
from lipdescent.training.options import TrainingOptions
from lipdescent.training.stack_training import Interrupted, StackTraining

SEEDS, SAMPLES, BATCH, CLASSES, EPOCHS = [3, 4], 45, 10, 3, 4
SCHEDULE = {"warmup_updates": 6, "step_epochs": 1, "drops": 2}
# Khromov & Singh's protocol in small: architecture, its options, shape, engine.
NETWORKS = {
    "relu": ("mlp", {"output_slope": 0.0}, (6,), StackedMLP),
    "leaky": ("mlp", {"output_slope": 0.01, "depth": 2}, (6,), StackedMLP),
    "cnn": ("cnn", {}, (1, 8, 8), StackedCNN),
    "conv1d": ("conv1d", {}, (20,), StackedAutograd),
    "vit": (
        "vit",
        {"patch": 4, "blocks": 1, "heads": 2, "head_width": 3},
        (1, 8, 8),
        LoopedAutograd,
    ),
}


def builder(network):
    name, options, shape, _ = NETWORKS[network]
    build = lookup.resolve("architectures", name).build
    return (lambda: build(4, input_shape=shape, num_classes=CLASSES, **options)), shape


def make(network="relu", *, at_once=None, order="fixed"):
    build, shape = builder(network)
    draws = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, *shape, generator=draws, dtype=torch.float64)
    labels = torch.randint(CLASSES, (1, SAMPLES), generator=draws).expand(len(SEEDS), -1)
    options = TrainingOptions(
        learning_rate=0.1, batch_size=BATCH, loss="squared_error_sum", batch_order=order,
        schedule="warmup_step", schedule_options=SCHEDULE, gradient_clip=0.8,
    )  # fmt: skip
    return StackTraining(
        initial_stack(build, SEEDS, shape).to(dtype=torch.float64),
        TrainingData(inputs, labels, CLASSES),
        seeds=SEEDS,
        epochs=[0, EPOCHS],
        options=options,
        at_once=at_once,
    )


def trained(training, **arguments):
    training.run(progress=Progress(2, EPOCHS), **arguments)
    return training.result([0.0] * len(SEEDS), {}).state


def by_plain_pytorch(model, data):
    """Their loop: summed losses over the batch size, clipped, a rate for every update."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kinds, per_epoch = torch.optim.lr_scheduler, -(-SAMPLES // BATCH)
    warm = SCHEDULE["warmup_updates"]
    rise = kinds.LambdaLR(optimizer, lambda update: (update + 1) / warm)
    steps = kinds.MultiStepLR(optimizer, [per_epoch, 2 * per_epoch], gamma=0.75)
    schedule = kinds.SequentialLR(optimizer, [rise, steps], [warm])
    targets = nn.functional.one_hot(data.labels[0], CLASSES).double()
    loader = DataLoader(TensorDataset(data.inputs, targets), batch_size=BATCH, shuffle=False)
    for _ in range(EPOCHS):
        for x, y in loader:
            optimizer.zero_grad()
            (nn.MSELoss(reduction="sum")(model(x), y) / len(x)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.8)
            optimizer.step()
            schedule.step()
    return model.state_dict()


@pytest.mark.parametrize("network", NETWORKS)
def test_fixed_equals_a_loader_without_shuffling(network):
    training = make(network)
    assert isinstance(training.blocks[0].engine, NETWORKS[network][3])
    build, shape = builder(network)
    found = trained(training)
    for replica, seed in enumerate(SEEDS):
        model = build().double()
        stack = initial_stack(build, [seed], shape)
        model.load_state_dict({n: t[0].double() for n, t in stack.state.items()})
        for name, tensor in by_plain_pytorch(model, training.data).items():
            torch.testing.assert_close(found[name][-1, replica], tensor, rtol=1e-8, atol=1e-10)


def test_fixed_is_the_same_for_every_seed_and_epoch_and_shuffled_is_not():
    orders = {
        kind: [batch_order([0, 1], epoch, 45, kind=kind) for epoch in (0, 1)]
        for kind in ("fixed", "shuffled")
    }
    assert all(order.tolist() == [list(range(45))] * 2 for order in orders["fixed"])
    rows = {tuple(row) for order in orders["shuffled"] for row in order.tolist()}
    assert len(rows) == 4
    assert all(sorted(row) == list(range(45)) for row in rows)
    assert torch.equal(batch_order([0, 1], 1, 45), orders["shuffled"][1])


def test_fixed_does_not_depend_on_blocks_nor_on_a_stop(tmp_path):
    whole, state = trained(make()), tmp_path / "run.state"
    alone = trained(make(at_once=1))
    with pytest.raises(Interrupted):
        trained(make(), state_path=state, state_interval=0, should_stop=lambda: True)
    resumed = make()
    again = trained(resumed, state_path=state)
    for name, tensor in whole.items():
        assert torch.equal(tensor, alone[name])
        assert torch.equal(tensor, again[name])


def test_a_state_of_another_order_is_not_taken_over(tmp_path):
    state = tmp_path / "run.state"
    with pytest.raises(Interrupted):
        trained(make(order="shuffled"), state_path=state, should_stop=lambda: True)
    other = trained(make(), state_path=state)
    assert all(torch.equal(tensor, other[name]) for name, tensor in trained(make()).items())


@pytest.mark.parametrize(("order", "expected"), [("fixed", 1), ("shuffled", EPOCHS)])
def test_what_stays_the_same_goes_to_the_device_once(monkeypatch, order, expected):
    uploaded = []
    monkeypatch.setattr(
        stack_training, "upload", lambda t, device: uploaded.append(t.dtype) or t.to(device)
    )
    training = make(order=order)
    training.options = replace(training.options, schedule="constant", schedule_options={})
    for _ in range(EPOCHS):
        training.one_epoch()
    assert uploaded.count(torch.int64) == expected
    assert uploaded.count(torch.float64) == 1  # rates
    training.stopped[0] = training.epoch  # a replica that has stopped has rates of its own
    before = training.state().live["model/0"].clone()
    training.one_epoch()
    assert uploaded.count(torch.float64) == 2
    after = training.state().live["model/0"]
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])
