"""Shared fixtures: one thread, small data."""

import importlib

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Every call of these is checked: shapes of tensors (lipdescent.shapes) and types of the rest.
SHAPES = (
    "lipdescent.arithmetic.eigenvalues",
    "lipdescent.bounds.geolip.natural",
    "lipdescent.bounds.jacobians.norms",
    "lipdescent.bounds.lower_jacobian",
    "lipdescent.bounds.lower_pairs",
    "lipdescent.bounds.upper_combettes_pesquet",
    "lipdescent.bounds.upper_eclipse_fast",
    "lipdescent.bounds.upper_geolip",
    "lipdescent.bounds.upper_local",
    "lipdescent.layers._operators",
    "lipdescent.layers._torus",
    "lipdescent.layers.convolution",
    "lipdescent.layers.linear",
    "lipdescent.layers.normalisation",
    "lipdescent.layers.table",
    "lipdescent.stacks.convolution",
    "lipdescent.stacks.dropout",
    "lipdescent.stacks.normalisation",
    "lipdescent.stacks.products",
    "lipdescent.structure.composition",
    "lipdescent.structure.relu_chain",
    "lipdescent.structure.scaling",
)
with install_import_hook(SHAPES, "checked_shapes.checker"):
    for name in SHAPES:
        importlib.import_module(name)

from lipdescent.stacks.model_stack import ModelStack  # noqa: E402 - after the hook

settings.register_profile("project", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("project")
torch.set_num_threads(1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def random_state_untouched():
    """The test fails if anything draws from, or seeds, torch's global generator."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.fixture
def make_stack():
    """A stack of freshly drawn models that leaves the global random state alone."""

    def make(build, count, input_shape, *, seed=0, dtype=torch.float32) -> ModelStack:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules = [build().to(dtype) for _ in range(count)]
        return ModelStack.from_modules(modules, input_shape)

    return make
