"""DataParallel, torch.compile and averaged models are the network within."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from lipdescent.bracketing.bracket import bracket
from lipdescent.networks.wrappers import unwrapped


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


WRAPPED = {
    "DataParallel": nn.DataParallel,
    "OptimizedModule": torch.compile,
    "AveragedModel": AveragedModel,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_wrapped_network_has_the_bracket_of_the_network(name):
    lines = []
    methods = ["upper_lipsdp", "lower_jacobian"]
    found = bracket(WRAPPED[name](net()), (4,), methods=methods, report=lines.append)
    plain = bracket(net(), (4,), methods=methods)
    assert (found.lower, found.upper) == (plain.lower, plain.upper)
    assert lines[0] == f"measured is the network within the {name}"


def test_wrappers_within_wrappers_and_those_that_compute_something():
    inner = net()
    assert unwrapped(nn.DataParallel(nn.DataParallel(inner)))[0] is inner
    assert unwrapped(inner) == (inner, [])
    hooked = nn.DataParallel(copy.deepcopy(inner))
    hooked.register_forward_hook(lambda module, args, out: 2 * out)
    assert unwrapped(hooked) == (hooked, [])


@pytest.mark.filterwarnings("ignore:.*jit.trace")
def test_torchscript_says_what_to_measure():
    with pytest.raises(TypeError, match="is TorchScript; allowed is the module that it was made"):
        bracket(torch.jit.trace(net(), torch.zeros(1, 4)), (4,))
