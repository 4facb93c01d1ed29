"""Shared fixtures: one thread, small data."""

import gc
import importlib
import json
from dataclasses import asdict

import checked_shapes
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
    "lipdescent.structure.layer_constants",
    "lipdescent.structure.linear_runs",
    "lipdescent.structure.relu_chain",
    "lipdescent.structure.scaling",
)
with checked_shapes.once_a_test(), install_import_hook(SHAPES, "checked_shapes.checker"):
    for name in SHAPES:
        importlib.import_module(name)

from lipdescent.stacks.model_stack import ModelStack  # noqa: E402 - after the hook

# Autograd counts the devices at its first backward pass, and with one no fork can use it. An export
# beforehand has PyTorch pretend one: then tests of processes that share a bound would fail.
torch.ones((), requires_grad=True).backward()

# A file's tests share what they make, so one worker runs them (xdist's loadfile), and files that
# run the workflow share the process that its own are forks of. Files that take longest begin first,
# or one of them would be what all wait for at the end.
FORKING = ("test_workflow.py", "test_faults.py", "test_axes_end_to_end.py")
LONGEST = (
    *FORKING, "figures/test_figures.py", "test_cuda.py", "test_refusals.py", "test_studies.py",
    "test_float64_only.py", "test_exact_networks.py", "test_comparisons.py",
    "test_batch_independence.py",
)  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "forking" if file.endswith(FORKING) else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items):
    def place(item) -> int:
        path = item.path.as_posix()
        return next((i for i, name in enumerate(LONGEST) if path.endswith(name)), len(LONGEST))

    items.sort(key=place)


def pytest_runtest_setup():
    checked_shapes.KNOWN.clear()


def pytest_collection_finish():
    """What lives until the end is looked at by the collector no more, and what lives shortly less
    often: it took a tenth of the time of tests that draw or export."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_unconfigure():
    gc.unfreeze()  # or libraries that count what is left at the end call it leaked


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


MADE: dict[str, object] = {}


@pytest.fixture(scope="module")
def mnist1d_made_once():
    """Making the 5000 points takes a second of CPU, and they are always the same.

    That they are is for files to test that do not ask for this.
    """
    from mnist1d import data

    def once(*arguments):
        if not MADE:
            MADE.update(make(*arguments))
        return dict(MADE)

    make, data.make_dataset = data.make_dataset, once
    yield
    data.make_dataset = make


@pytest.fixture
def counted_here(monkeypatch, tmp_path):
    """Networks are counted in this process, which has PyTorch already; those that were."""
    import count_networks

    from lipdescent.study import network_costs

    monkeypatch.chdir(tmp_path)  # where no answer is kept
    monkeypatch.setattr(network_costs, "_FOUND", {})
    monkeypatch.setattr(network_costs, "LOADED", {})
    asked = []

    def count(networks):
        asked.extend(networks)
        return [count_networks.found(json.loads(json.dumps(asdict(n)))) for n in networks]

    monkeypatch.setattr(network_costs, "_count", count)
    return asked


@pytest.fixture
def make_stack():
    """A stack of freshly drawn models that leaves the global random state alone."""

    def make(build, count, input_shape, *, seed=0, dtype=torch.float32) -> ModelStack:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            modules = [build().to(dtype) for _ in range(count)]
        return ModelStack.from_modules(modules, input_shape)

    return make
