"""Bounds of fully connected networks on Fashion-MNIST, plain (filled) and PGD-trained (open).

After the tables of Wang et al. (2022, arXiv 2203.01212): 784-w-10 networks and deeper ones of 64
units a layer. Left: l_inf, sampling (a lower bound), GeoLIP, product; middle: l2, sampling, LipSDP,
product; with one multiplier for each hidden layer in place of one for each unit; where the
activation patterns can be searched, the largest Jacobian norm over them. Right: CPU seconds for one
network. All of the whole map; the table has every logit, too.
"""

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from lipdescent.analysis.labels import constant_name
from lipdescent.architectures import mlp
from lipdescent.experiments._drawing import key_of, log_values, look, panels
from lipdescent.experiments._fitting import Fit, Forward, classify
from lipdescent.measurement import NotApplicable
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack
from lipdescent.training.draws import initial_stack
from lipdescent.training.losses import cross_entropy

PER_LAYER = {"multipliers": "layer"}
# In increasing order: the bound that a quantity is of, its options, the side that is taken, and
# what the figure calls it.
BOUNDS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "lower_jacobian": ("lower_jacobian", {}, "lower", "sampling"),
    "exact_enumeration": ("exact_enumeration", {}, "upper", "enumeration"),
    "upper_geolip": ("upper_geolip", {}, "upper", "GeoLIP"),
    "upper_geolip_layer": ("upper_geolip", PER_LAYER, "upper", "GeoLIP, per layer"),
    "upper_lipsdp": ("upper_lipsdp", {}, "upper", "LipSDP"),
    "upper_lipsdp_layer": ("upper_lipsdp", PER_LAYER, "upper", "LipSDP, per layer"),
    "upper_layer_product": ("upper_layer_product", {}, "upper", "layer product"),
}
WHOLE = "all"  # in place of a logit's number: the map to all of them
LARGEST_PER_LOGIT = 16  # units whose patterns are enumerated for each logit
ATTACK_RADIUS = 0.1  # l_inf, pixels in [0, 1]


def pgd_batches(
    forward: Forward,
    inputs: Tensor,
    labels: Tensor,
    *,
    radius: float = ATTACK_RADIUS,
    steps: int = 4,
) -> Tensor:
    """Inputs (num_models, batch, d) moved within the l_inf ball to raise the cross-entropy."""
    delta = torch.zeros_like(inputs)
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        logits = forward(inputs + delta)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        (gradient,) = torch.autograd.grad(loss, delta)
        delta = (delta + 2 * radius / steps * gradient.sign()).detach()
        delta = delta.clamp(-radius, radius)
    return (inputs + delta).detach()


def fit(
    inputs: Tensor, labels: Tensor, *, width: int, depth: int, robust: bool, steps: int, seed: int
) -> ModelStack:
    """One ReLU network with biases, Adam 2e-3, cosine, batches of 128.

    The attack's radius grows over the first half: narrow networks die under the whole at once.
    """

    def attack(forward: Forward, x: Tensor, y: Tensor, step: int) -> Tensor:
        radius = ATTACK_RADIUS * min(1.0, 2 * (step + 1) / steps)
        return pgd_batches(forward, x, y, radius=radius)

    def build() -> torch.nn.Module:
        return mlp.build(width, input_shape=(784,), num_classes=10, depth=depth, bias=True)

    return classify(
        initial_stack(build, [seed], (784,)),
        inputs,
        labels,
        [cross_entropy.loss],
        seeds=[seed],
        num_classes=10,
        how=Fit(steps, 128, learning_rate=2e-3, disturb=attack if robust else None),
    )


def per_logit(stack: ModelStack, *, width: int, depth: int) -> ModelStack:
    """A single model's logits as models of one output each."""
    with torch.random.fork_rng(devices=[]):
        module = mlp.build(width, input_shape=(784,), num_classes=1, depth=depth, bias=True).eval()
    last = f"{len(module) - 1}."
    state = {}
    for name, tensor in stack.state.items():
        if name.startswith(last):
            state[name] = tensor[0, :, None].clone()
        else:
            state[name] = tensor.expand(10, *tensor.shape[1:]).clone()
    return ModelStack(module, state, (784,))


def measure(stack: ModelStack, points: Tensor, logits: Sequence[str]) -> list[dict[str, object]]:
    """Every bound of every model, with the CPU seconds that all took; absent ones are left out.

    ``logits`` has the models' names, in their order.
    """
    rows = []
    for quantity, (name, options, side, _) in BOUNDS.items():
        bound = lookup.resolve("bounds", name)
        if name == "exact_enumeration" and len(logits) > 1:
            options = {"max_units": LARGEST_PER_LOGIT}
        for norm in ("linf", "l2"):
            if norm not in bound.NORMS:
                continue
            start = time.process_time()
            try:
                found = list(
                    bound.measure(stack, inputs={"test": points}, norms=[norm], seed=0, **options)
                )
            except NotApplicable as reason:
                print(f"{quantity}, {norm}: {reason}")
                continue
            seconds = time.process_time() - start
            about = {"quantity": quantity, "direction": side, "norm": norm, "seconds": seconds}
            rows += [
                about | {"logit": logit, "value": value}
                for m in found
                if (m.quantity, m.direction) == (name, side)
                for logit, value in zip(logits, m.values.tolist(), strict=True)
            ]
    return rows


def check_order(frame: pd.DataFrame) -> None:
    """Sampling <= enumeration <= GeoLIP or LipSDP <= product, whole and per logit, or ValueError.

    No logit's bound is above the same bound of the whole map, up to the tolerance of its search.
    """
    networks = ["width", "depth", "training", "norm"]
    for key, rows in frame.groupby([*networks, "logit"]):
        values = rows.set_index("quantity")["value"]
        known = [values[name] for name in BOUNDS if name in values]
        if any(a > b * (1 + 1e-9) for a, b in pairwise(known)):
            raise ValueError(f"{key}: bounds out of order: {values.to_dict()}")
    for key, rows in frame.groupby([*networks, "quantity"]):
        whole, single = (rows[(rows["logit"] == WHOLE) == is_whole] for is_whole in (True, False))
        if len(single) and float(single["value"].max()) > float(whole["value"].max()) * (1 + 1e-3):
            raise ValueError(f"{key}: a logit's bound is above the whole map's: {single['value']}")


def parse(network: str) -> tuple[int, int, str]:
    """Width, hidden layers and training of a network's name, e.g. "64 plain" or "3x64 PGD"."""
    sizes, _, training = network.partition(" ")
    depth, _, width = sizes.rpartition("x")
    if not (width.isdigit() and (depth or "1").isdigit() and training in ("plain", "PGD")):
        raise ValueError(f"network {network!r}: allowed are names as '64 plain', '3x64 PGD'")
    return int(width), int(depth or 1), training


def run(
    *,
    networks: Sequence[str] = ("8 plain", "8 PGD"),
    steps: int = 600,
    num_train: int = 10000,
    num_points: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per network, logit, bound and norm; networks are named as :func:`parse` says."""
    parsed = [parse(network) for network in networks]
    data = lookup.resolve("datasets", "fashion_mnist").load(
        num_train=num_train, num_test=num_points, normalise="none"
    )
    inputs = torch.from_numpy(data.train_inputs).flatten(1)
    points = torch.from_numpy(data.test_inputs).flatten(1)
    labels, test_labels = (torch.from_numpy(y) for y in (data.train_labels, data.test_labels))
    rows = []
    for width, depth, training in parsed:
        robust = training == "PGD"
        stack = fit(
            inputs, labels, width=width, depth=depth, robust=robust, steps=steps, seed=seed
        ).to(dtype=torch.float64)
        hits = stack(points.double())[0].argmax(-1) == test_labels
        about = {
            "width": width,
            "depth": depth,
            "training": training,
            "accuracy": hits.double().mean().item(),
        }
        print(about)
        rows += [about | row for row in measure(stack, points, [WHOLE])]
        single = per_logit(stack, width=width, depth=depth)
        names = [str(k) for k in range(single.num_models)]
        rows += [about | row for row in measure(single, points, names)]
    frame = pd.DataFrame(rows)
    check_order(frame)
    return frame


def draw(frame: pd.DataFrame) -> Figure:
    """Values in both norms, and seconds, over the width; the deep network stands last."""
    figure, axes = panels(3)
    frame = frame[frame["logit"] == WHOLE].sort_values(["depth", "width"], kind="stable")
    networks = list(dict.fromkeys(zip(frame["width"], frame["depth"], strict=True)))
    place = {network: i for i, network in enumerate(networks)}
    x = [place[n] for n in zip(frame["width"], frame["depth"], strict=True)]
    frame = frame.assign(place=x)
    for i, (name, (*_, shown)) in enumerate(BOUNDS.items()):
        rows = frame[frame["quantity"] == name]
        for training, face in (("plain", None), ("PGD", "none")):
            part = rows[rows["training"] == training]
            label = shown if training == "plain" else None
            style = look(i) | {"linestyle": "", "markerfacecolor": face}
            for axis, norm in zip(axes, ("linf", "l2"), strict=False):
                of_norm = part[part["norm"] == norm]
                axis.plot(of_norm["place"], of_norm["value"], **style)
            axes[2].plot(part["place"], part["seconds"], label=label, **style)
    names = [constant_name("bound", norm) for norm in ("linf", "l2")]
    for axis, name in zip(axes, [*names, "time (s)"], strict=True):
        log_values(axis)
        axis.set_ylabel(name)
        names = [str(w) if d == 1 else f"{d}x{w}" for w, d in networks]
        axis.set_xticks(range(len(networks)), names, rotation=60)
        axis.set_xlabel("hidden units")
    key_of(figure, axes[2], columns=5)
    return figure
