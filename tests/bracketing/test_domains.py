"""A bracket on a domain: sound on it, tighter than everywhere, and what is refused."""

import math

import pytest
import torch
from torch import nn

from lipdescent.bracketing.bracket import bracket
from lipdescent.commands import bracket as command
from lipdescent.domains.domain import Ball, Box

LOWER = ["lower_jacobian", "lower_attack", "lower_pairs", "lower_gaussian", "lower_ascent"]
LOWER += ["lower_convex_combinations"]


class Square(nn.Module):
    """x^2 as x times x, by a bent line: relu pieces of slope 1, 2, 3, ... beyond 0, 1, 2, ..."""

    def __new__(cls, pieces: int = 5):
        first, last = nn.Linear(1, pieces), nn.Linear(pieces, 1)
        with torch.no_grad():
            first.weight.fill_(1.0)
            first.bias.copy_(-torch.arange(float(pieces)))
            last.weight.fill_(1.0)
            last.bias.zero_()
        return nn.Sequential(first, nn.ReLU(), last).eval()


@pytest.mark.parametrize("end", [0.5, 1.5, 2.5, 3.5])
def test_a_convex_line_has_its_last_slope_on_a_box(end):
    """Slope k between k - 1 and k: on [-1, end] the constant is ceil(end)."""
    found = bracket(
        Square(), (1,), domain={"box": [-1, end]}, methods=["upper_graph", *LOWER], budget=5
    )
    assert found.upper == pytest.approx(math.ceil(end), rel=1e-9)
    assert found.lower == pytest.approx(math.ceil(end), rel=1e-6)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_lower_bounds_stay_in_a_ball_though_larger_slopes_are_near(norm):
    data = torch.tensor([[0.5]], dtype=torch.float64)
    domain = {"ball": {"radius": 0.25, "norm": norm}}
    methods = {name: {} for name in ["upper_graph", "lower_ascent", "lower_gaussian"]}
    methods["lower_attack"] = {"radius": 5.0}
    found = bracket(Square(), (1,), data=data, domain=domain, methods=methods)
    assert found.lower == pytest.approx(1.0, rel=1e-6)
    assert found.upper == pytest.approx(1.0, rel=1e-9)


def test_pairs_of_points_in_two_balls_prove_nothing():
    """The slope between the balls is 3 or more, that in each of them is 1 or 5."""
    jump = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).eval()
    with torch.no_grad():  # 100 (relu(x - 1) - relu(x - 2)): flat, steep, flat
        jump[0].weight.fill_(1.0)
        jump[0].bias.copy_(torch.tensor([-1.0, -2.0]))
        jump[2].weight.copy_(torch.tensor([[100.0, -100.0]]))
        jump[2].bias.zero_()
    data = torch.tensor([[0.0], [3.0]], dtype=torch.float64)
    found = bracket(jump, (1,), data=data, domain=Ball(0.5), methods=["upper_graph", *LOWER])
    assert found.lower == 0
    assert found.upper <= 1e-9


def test_the_ball_of_radius_0_is_the_jacobian_of_the_point():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double().eval()
    point = torch.randn(1, 3, dtype=torch.float64)
    truth = torch.autograd.functional.jacobian(network, point[0])
    found = bracket(network, (3,), data=point, domain=Ball(0.0), methods=["upper_graph"])
    assert found.upper == pytest.approx(float(torch.linalg.matrix_norm(truth, 2)), rel=1e-9)


def test_data_outside_the_domain_are_left_out_with_a_message():
    lines: list[str] = []
    data = torch.tensor([[0.5], [7.0]], dtype=torch.float64)
    found = bracket(
        Square(),
        (1,),
        data=data,
        domain=Box(0, 1),
        methods=["lower_jacobian", "upper_graph"],
        budget=20,
        report=lines.append,
    )
    assert found.upper >= 1
    assert any("1 of 2 points lie outside" in line for line in lines)


def test_a_lower_bound_that_knows_no_domain_is_not_taken_for_one_of_it():
    found = bracket(
        Square(), (1,), domain=Box(-2, -1), methods=["exact_enumeration", "upper_graph"]
    )
    lower = found.table[found.table.direction == "lower"]
    assert set(lower.status) == {"not_applicable"}
    assert found.upper == 0


@pytest.mark.parametrize(
    ("domain", "named"),
    [
        ({"box": [1, 0]}, "empty"),
        ({"ball": {"radius": float("nan")}}, "radius"),
        ({"ball": {"radius": float("inf")}}, "everywhere"),
        ({"ball": {"radius": 0.1}}, "no data"),
        (Box(torch.zeros(3), torch.ones(3)), "shape"),
    ],
)
def test_domains_that_are_none_are_refused(domain, named):
    with pytest.raises(ValueError, match=named):
        bracket(Square(), (1,), domain=domain, methods=["upper_graph"])


def test_the_command_line_names_a_domain(tmp_path, monkeypatch, capsys):
    (tmp_path / "line.py").write_text(
        "from torch import nn\n\ndef net():\n    return nn.Sequential(nn.Linear(2, 2), nn.Tanh())\n"
    )
    monkeypatch.chdir(tmp_path)
    asked = ["--model", "line.py:net", "--input-shape", "2", "--methods", "upper_graph"]
    command.main([*asked, "--budget", "20", "--domain", "box:0,1"])
    assert "best bracket" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="domain box:1,0"):
        command.main([*asked, "--domain", "box:1,0"])
