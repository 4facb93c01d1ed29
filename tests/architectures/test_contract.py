"""Every architecture keeps the contract of architectures/_contract.py."""

import re

import contracts
import pytest
import torch
from torch import nn

from lipdescent.architectures._contract import ArchitecturePlugin
from lipdescent.plugins import signatures
from lipdescent.stacks.model_stack import ModelStack

ARCHITECTURES = contracts.plugins("architectures")
SHAPES = ((40,), (1, 16, 16), (3, 32, 32), (3, 15, 17))
every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


def build(name: str, shape: tuple[int, ...], *, seed: int = 0, width: int = 4) -> nn.Module:
    """Drawn by the seed; the global state is as before, and only torch's was drawn from."""
    with torch.random.fork_rng(devices=[]), contracts.no_global_draws():
        before = torch.random.get_rng_state()
        torch.manual_seed(seed)
        built = ARCHITECTURES[name].build(width, input_shape=shape, num_classes=4)
        torch.random.set_rng_state(before)
    return built.eval()


def refusal(name: str, shape: tuple[int, ...]) -> str:
    """What is said of a shape that does not fit; nothing where it fits."""
    try:
        build(name, shape)
    except ValueError as error:
        return str(error)
    return ""


def fitting(name: str) -> list[tuple[int, ...]]:
    """The shapes above that it takes."""
    found = [shape for shape in SHAPES if not refusal(name, shape)]
    assert found, f"{name} takes none of {SHAPES}"
    return found


@every_architecture
def test_signature(name):
    contracts.check(ARCHITECTURES[name], ArchitecturePlugin)
    needed = contracts.needed(ARCHITECTURES[name].build)
    assert needed == ["input_shape", "num_classes"], "options have defaults"


@every_architecture
def test_one_logit_per_class_from_the_seed_alone(name):
    for shape in fitting(name):
        net = build(name, shape)
        inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            logits = net(inputs)
            assert torch.equal(build(name, shape)(inputs), logits)
            of_a_seed_of_its_own = "weights_seed" in signatures.options("architectures", name)[0]
            same = torch.equal(build(name, shape, seed=1)(inputs), logits)
            assert same == of_a_seed_of_its_own
            torch.testing.assert_close(net(inputs[1:2]), logits[1:2])  # a sample alone
        assert (logits.shape, logits.dtype) == ((3, 4), torch.float32)
        assert logits.isfinite().all()
        assert {p.dtype for p in net.parameters()} == {torch.float32}


@every_architecture
def test_a_stack_computes_what_its_networks_do(name):
    shape = fitting(name)[-1]
    nets = [build(name, shape, seed=seed) for seed in range(2)]
    inputs = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = ModelStack.from_modules(nets, shape)(inputs)
        for logits, net in zip(found, nets, strict=True):
            torch.testing.assert_close(logits, net(inputs), rtol=1e-4, atol=1e-5)


@every_architecture
def test_it_is_built_where_torch_says(name):
    """Costs are counted on the meta device, which has no memory."""
    with torch.device("meta"):
        net = ARCHITECTURES[name].build(8, input_shape=fitting(name)[-1], num_classes=4)
    assert {p.device.type for p in net.parameters()} == {"meta"}


@every_architecture
@pytest.mark.parametrize("shape", SHAPES)
def test_what_it_refuses_is_named_and_refused_before_it_is_built(name, shape):
    sizes = signatures.function("architectures", name, "SIZES")
    options, refused = signatures.defaults("architectures", name), refusal(name, shape)
    if not refused:
        if sizes:
            sizes(8, input_shape=shape, **options)
        return
    assert re.search("allowed (is|are) ", refused)
    assert any(str(size) in refused for size in shape)
    with pytest.raises(ValueError, match=re.escape(refused)):
        sizes(8, input_shape=shape, **options)
