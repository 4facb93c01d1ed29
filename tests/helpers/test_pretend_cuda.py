"""The pretended device notices what a real one would punish."""

import pytest
import torch
from pretend_cuda import PretendCuda, Waits, unwatched

from lipdescent.training.cuda_graph import UpdateGraph


@pytest.fixture
def pretence():
    with PretendCuda() as pretence:
        yield pretence


@pytest.mark.parametrize(
    "mistake",
    [
        lambda x: x + torch.ones(3),
        lambda x: x @ torch.ones(3),
        lambda x: torch.ones(3)[x.long()],
        lambda x: torch.cat([x, torch.zeros(1)]),
        lambda x: torch.nn.Linear(3, 2)(x),
        lambda x: torch.func.vmap(torch.add)(x, torch.ones(3)),
        lambda x: x.clone().index_put_((torch.arange(2),), torch.ones(2)),
        lambda x: x + torch.ones_like(x).cpu(),
        lambda x: (x * x.cpu().requires_grad_().sin()).sum(),
    ],
)
def test_both_devices_in_one_operation(pretence, mistake):
    with pytest.raises(RuntimeError, match="found at least two devices"):
        mistake(torch.arange(3.0, device="cuda"))


def test_pinned_memory_has_no_overlaps(pretence):
    assert torch.arange(3).repeat(2, 1).t().pin_memory().stride() == (1, 3)
    with pytest.raises(RuntimeError, match="single memory location"):
        torch.arange(3).expand(2, -1).pin_memory()


def test_a_device_tensor_is_not_given_to_numpy(pretence):
    x = torch.zeros(3, device="cuda")
    with pytest.raises(TypeError, match="can't convert"):
        x.numpy()
    assert x.cpu().numpy().shape == (3,)


@pytest.mark.parametrize(
    "waits",
    [
        lambda x: x.sum().item(),
        lambda x: float(x[0]),
        lambda x: bool(x[0] > 0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.cpu(),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.ones(3).to(x.device),
        lambda x: torch.ones(3).to(x.device, non_blocking=True),  # memory that is not pinned
        lambda x: x.new_tensor([1.0]),
        lambda x: torch.tensor(2.0, device=x.device),
        lambda x: torch.linalg.eigvalsh(x.diag()),
        lambda x: torch.linalg.cholesky(x.diag() + torch.eye(3, device=x.device)),
        lambda x: torch.cuda.synchronize(),
    ],
)
def test_waiting_is_noticed(pretence, waits):
    x = torch.arange(3.0, device="cuda")
    waits(x)
    torch.cuda.set_sync_debug_mode("error")
    with pytest.raises(Waits, match="synchronizing"):
        waits(x)


def test_what_does_not_wait(pretence):
    host = torch.arange(3.0)
    torch.cuda.set_sync_debug_mode("error")
    x = host.pin_memory().to("cuda", non_blocking=True)
    assert x.device == torch.device("cuda", 0)
    assert (x.is_cuda, host.is_cuda) == (True, False)
    y = torch.where(x > 1, x * 2, torch.full((), 0.5, device="cuda")) + torch.zeros_like(x)
    views = (y.view(3, 1).mT, y[1:], torch.empty(2, device="cuda"), y.double(), y.detach())
    assert all(view.is_cuda for view in views)
    torch.cuda.set_sync_debug_mode("default")
    assert y.tolist() == [0.5, 0.5, 4.0]


def test_a_graph_replays_operations_not_python(pretence):
    state, calls = torch.zeros(2, device="cuda"), []

    def run(x):
        calls.append(1)
        state.add_(x * len(calls))  # a number that Python computes is frozen, as in a real graph

    graph = UpdateGraph(run, [torch.ones(2, device="cuda")], [state])
    assert state.tolist() == [0, 0], "capturing leaves the values as they were"
    assert len(calls) == 2
    for value in (1.0, 10.0):
        graph(torch.full((2,), value, device="cuda"))
    assert len(calls) == 2
    assert state.tolist() == [22.0, 22.0]


def test_waiting_cannot_be_captured(pretence):
    x = torch.ones(2, device="cuda")
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        UpdateGraph(lambda value: value.mul_(float(value.sum())), [x], [x])
    assert x.tolist() == [1, 1]


def test_a_stale_buffer_is_noticed(pretence):
    """A tensor that is replaced instead of written to: the graph goes on with the old one."""
    holder = {"x": torch.zeros(1, device="cuda")}

    def replace(value):
        holder["x"] = holder["x"] + value

    graph = UpdateGraph(replace, [torch.ones(1, device="cuda")], [])
    graph(torch.ones(1, device="cuda"))
    graph(torch.ones(1, device="cuda"))
    assert holder["x"].item() == 2, "the second of the two calls that captured, replayed twice"


def test_the_host_alone_is_not_watched(pretence):
    x = torch.ones(3, device="cuda")
    with unwatched(), unwatched():
        x + torch.ones(3)
    with pytest.raises(RuntimeError, match="found at least two devices"):
        x + torch.ones(3)


def test_nothing_of_it_stays():
    with PretendCuda():
        torch.zeros(1, device="cuda")
    if not torch.cuda.is_available():
        with pytest.raises((RuntimeError, AssertionError)):
            torch.zeros(1, device="cuda")
    assert torch.zeros(1).device.type == "cpu"
