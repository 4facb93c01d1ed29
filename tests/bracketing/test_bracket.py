"""The bracket of one network: the table, its order, and what is refused."""

import copy
import math
import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from lipdescent import bounds
from lipdescent.architectures._blocks import Residual
from lipdescent.arithmetic import decimals
from lipdescent.bracketing import foreign_network
from lipdescent.bracketing.bracket import bracket
from lipdescent.bracketing.ends import best, check_order
from lipdescent.bracketing.result import Bracket
from lipdescent.bracketing.text import text
from lipdescent.commands.main import main
from lipdescent.measuring.bound_trial import random_data
from lipdescent.networks.expressions import chain
from lipdescent.plugins import lookup

SCRIPT = Path(__file__).parents[2] / "scripts" / "bracket.py"
SAMPLED = ["lower_ascent", "lower_gaussian", "lower_convex_combinations", "lower_pairs"]
SAMPLED += ["lower_attack"]
LAYER_BOUNDS = ["lower_jacobian", "upper_layer_product", "upper_block_lipsdp"]


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        branch = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1))
        return nn.Sequential(
            nn.Conv2d(1, 2, 3), Residual(branch), nn.MaxPool2d(3, 2), nn.Flatten(), nn.Linear(8, 2)
        ).eval()


def points(n=5, shape=(1, 7, 7)):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(0))


def small():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


def test_the_table_has_every_bound_in_order(random_state_untouched):
    frame = bounds.bracket(network(), (1, 7, 7), data=points(), methods=LAYER_BOUNDS).table
    assert list(frame.columns[:6]) == [
        "quantity", "direction", "norm", "value", "status", "seconds"
    ]  # fmt: skip
    values = frame.set_index("quantity").value
    lower, upper = best(frame)
    assert lower == values["lower_jacobian"] > 0
    assert lower <= upper == values["upper_block_lipsdp"] <= values["upper_layer_product"]
    assert set(frame.status) == {"ok"}
    assert (frame.seconds > 0).all()


def test_all_methods_on_a_small_network():
    frame = bracket(small(), (3,), data={"train": points(6, (3,)), "test": points(4, (3,))}).table
    assert set(frame.status) <= {"ok", "not_applicable"}
    known = set(lookup.known("bounds"))
    assert known & set(frame.quantity) >= {"upper_lipsdp", "upper_layer_product"}
    assert set(frame[frame.quantity == "lower_jacobian"].split) == {"train", "test"}
    assert frame[frame.status == "not_applicable"].reason.str.len().gt(0).all()
    assert frame[frame.status == "ok"].value.notna().all()
    lower, upper = best(frame)
    assert 0 < lower <= upper


@pytest.mark.parametrize("norm", ["l1", "linf"])
def test_other_norms(norm):
    frame = bracket(network(), (1, 7, 7), norm=norm, data=points(), methods=LAYER_BOUNDS).table
    rows = frame.set_index("quantity")
    assert rows.status["upper_block_lipsdp"] == "not_applicable"
    assert rows.reason["upper_block_lipsdp"] == "exists in l2"
    lower, upper = best(frame)
    assert 0 < lower <= upper


def test_without_data_lower_bounds_start_from_normal_points():
    frame = bracket(network(), (1, 7, 7), methods=LAYER_BOUNDS, budget=1e6).table
    row = frame.set_index("quantity").loc["lower_jacobian"]
    assert (row.status, row.split, row.direction) == ("ok", "normal", "lower")
    lower, upper = best(frame)
    assert 0 < lower <= upper
    again = bracket(network(), (1, 7, 7), methods=["lower_jacobian"], budget=1e6).table
    assert best(again)[0] == lower
    assert math.isnan(best(again)[1])


def test_a_small_budget_has_both_ends_at_few_points_and_says_what_did_not_fit():
    lines, methods = [], [*LAYER_BOUNDS, *SAMPLED]
    found = bracket(
        network(), (1, 7, 7), data=points(500), methods=methods, budget=1e-6, report=lines.append
    )
    frame = found.table
    assert sorted(line.partition(":")[0] for line in lines) == sorted(methods)
    assert [name for name in frame.quantity.unique() if name in methods] == methods
    assert 0 < found.lower <= found.upper < math.inf
    absent = frame[frame.status != "ok"]
    assert set(absent.status) == {"not_in_budget"}
    assert set(absent.reason) == {"the budget of 1e-06 s was spent"}
    assert set(methods) - set(absent.quantity) == {"upper_layer_product", "lower_jacobian"}
    assert "not in budget:" in repr(found)
    everything = bracket(
        network(), (1, 7, 7), data=points(500), methods=["lower_jacobian"], budget=1e6
    ).table
    assert 0 < frame.set_index("quantity").value["lower_jacobian"] <= best(everything)[0]
    with pytest.raises(ValueError, match=r"budget = 0: allowed are seconds > 0"):
        bracket(network(), (1, 7, 7), budget=0)


class Bessel(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 3)

    def forward(self, x):
        return torch.special.i0(self.inner(x))  # of which no rounding is known


def test_a_lower_bound_that_is_not_proved_is_an_estimate_and_in_no_bracket():
    frame = bracket(Bessel().eval(), (4,), methods=LAYER_BOUNDS).table
    row = frame.set_index("quantity").loc["lower_jacobian"]
    assert (row.status, row.direction) == ("ok", "estimate")
    assert row.value > 0
    assert row.reason.startswith("rounding is not proved: ")
    assert all(math.isnan(side) for side in best(frame))


def test_attention_is_not_applicable_for_upper_bounds():
    layer = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True, dropout=0.0)
    frame = bracket(nn.Sequential(layer).eval(), (3, 4), methods=["upper_layer_product"]).table
    assert list(frame.status) == ["not_applicable"]
    assert "Attention" in frame.reason[0]


def test_a_lower_bound_above_an_upper_one_is_an_error():
    rows = [("lower_x", "lower", 2.0), ("upper_y", "upper", 1.0), ("upper_local", "upper", 0.5)]
    rows = [("jacobian_norm_mean", "metric", 2.0), *rows]  # which happens to be as large
    frame = pd.DataFrame(rows, columns=["quantity", "direction", "value"]).assign(status="ok")
    with pytest.raises(RuntimeError, match=r"lower_x = 2\.0 exceeds upper_y = 1\.0"):
        check_order(frame)
    check_order(frame[frame.quantity != "upper_y"])  # a local bound is no bound of the constant


def printed(frame):
    """The last line, the bracket, and (quantity, exact value) of the bounds in the rows above."""
    lines = text(frame, "l2").splitlines()
    rows = [line.split() for line in lines if line.lstrip().startswith(("lower_", "upper_"))]
    return lines[-1], [(row[0], Fraction(row[3])) for row in rows if row[1] in ("lower", "upper")]


def test_printed_bounds_are_bounds():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = nn.Linear(6, 9).eval()
    truth = np.linalg.svd(layer.weight.detach().double().numpy())[1][0]
    assert Fraction(f"{truth:.7g}") < truth  # to the nearest, no upper bound
    line, rows = printed(bracket(layer, (6,), methods=LAYER_BOUNDS).table)
    assert {name for name, _ in rows} == {"lower_jacobian", "upper_layer_product"}
    for name, value in rows:
        assert value < truth if name.startswith("lower") else value > truth
    assert line == "best bracket (l2): 1.095526 <= L <= 1.095527; ratio at most 1.0001"


def test_text_is_rounded_outwards_to_the_next_digit():
    values = (10 ** np.random.default_rng(0).uniform(-300, 300, 200)).tolist()
    for value in [*values, 5e-324, 1.0, 100.0, 1e8, 0.1]:
        low, high = Fraction(decimals.at_least(value)), Fraction(decimals.at_most(value))
        assert low <= Fraction(value) <= high
        assert high - low <= Fraction(value) / 10**6
    assert decimals.at_least(2.999, ".2f") == "2.99"
    assert decimals.at_most(2.001, ".2f") == "2.01"
    assert (decimals.at_least(1.5), decimals.at_most(1.5)) == ("1.5", "1.5")
    assert decimals.ratio(1.0, 3.0) == "0.33334"
    assert (decimals.at_least(0.0), decimals.at_most(math.inf)) == ("0", "inf")


def test_a_side_without_a_bound_says_why():
    own = Mine().eval()
    line, _ = printed(bracket(own, (3,), methods=LAYER_BOUNDS).table)
    assert re.search(r": no lower bound: rounding is not proved: .*aten.fft_", line)
    assert re.search(r"; no upper bound: .*aten.fft_", line)
    layer = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True, dropout=0.0)
    line, _ = printed(bracket(nn.Sequential(layer).eval(), (3, 4), methods=LAYER_BOUNDS).table)
    assert re.search(r": [\d.]+ <= L; no upper bound: 0.self_attn: Attention", line)
    normed = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)).eval()
    line, _ = printed(bracket(normed, (4,), methods=LAYER_BOUNDS).table)
    assert re.search(r": [\d.]+ <= L <= [\d.]+; ratio", line)
    line, _ = printed(bracket(small(), (3,), methods=["lower_jacobian"]).table)
    assert re.search(r": [\d.]+ <= L; no upper bound: none was asked for", line)


def shared():
    layer = nn.Linear(3, 3)
    return nn.Sequential(layer, layer)


def with_nan():
    net = small()
    net[0].weight.data[0, 0] = math.nan
    return net


def with_hook():
    net = small()
    net[0].register_forward_pre_hook(lambda module, inputs: inputs)
    return net


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (with_nan, r"0\.weight of model 0: contains NaN or inf"),
        (lambda: small().train(), "train mode"),
        (lambda: nn.Sequential(nn.Linear(4, 3)), r"0 \(Linear\) does not take .* \(3,\)"),
        (lambda: nn.Sequential(nn.ReLU()), "no parameters"),
    ],
)
def test_bad_networks_are_errors(build, match):
    net = build()
    net = net if match == "train mode" else net.eval()
    with pytest.raises(ValueError, match=match):
        bracket(net, (3,), methods=["upper_layer_product"])


@pytest.mark.parametrize(
    ("build", "plain"),
    [
        (
            lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3))),
            lambda net: [evaluated(net[0])],
        ),
        (shared, lambda net: [net[0], copy.deepcopy(net[0])]),
        (with_hook, lambda net: [*small()]),
    ],
    ids=["parametrised", "shared", "hook"],
)
def test_what_the_call_computes_is_read(build, plain):
    net = build().eval()
    same = nn.Sequential(*plain(net)).eval()
    found, expected = (
        bracket(m, (3,), methods=["upper_layer_product", "lower_jacobian"]) for m in (net, same)
    )
    assert (found.lower, found.upper) == (expected.lower, expected.upper)


def evaluated(layer):
    linear = nn.Linear(3, 3)
    linear.weight.data, linear.bias.data = layer.weight.detach(), layer.bias.detach()
    return linear


def unknown(x):
    """x itself, by operations that no table has."""
    return torch.fft.irfft(torch.fft.rfft(x), n=x.shape[-1])


class Mine(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        return torch.relu(unknown(self.linear(x)))


def test_a_network_that_cannot_be_read_has_its_lower_bounds():
    methods = ["upper_layer_product", "upper_lipsdp", "lower_jacobian", "lower_ascent"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Mine().eval()
    found = bracket(net, (3,), methods=methods)
    rows = found.table.set_index("quantity")
    assert list(rows.status[methods]) == ["not_applicable"] * 2 + ["ok"] * 2
    for name in methods[:2]:
        assert re.search(
            r"test_bracket.py, line \d+\): the operation aten.fft_\w+.default", rows.reason[name]
        )
    declared = bracket(nn.Sequential(net.linear, nn.ReLU()).eval(), (3,), methods=methods[2:])
    values = declared.table.set_index("quantity").value
    for name in methods[2:]:  # its own code is called: what is proved of it differs by rounding
        assert rows.direction[name] == "estimate"
        assert 0.8 * values["lower_jacobian"] < rows.value[name] <= declared.lower * (1 + 1e-6)
    assert math.isnan(found.lower)
    assert math.isnan(found.upper)
    assert "no upper bound: the network (test_bracket.py, line" in repr(found)


def test_a_bracket_has_its_ends_and_prints_as_its_table():
    found = bracket(small(), (3,), methods=LAYER_BOUNDS)
    values = found.table.set_index("quantity").value
    assert found.lower == values["lower_jacobian"] > 0
    assert found.upper == values["upper_block_lipsdp"] >= found.lower
    assert Fraction(found.ratio) >= Fraction(found.upper) / Fraction(found.lower)
    assert found.ratio == pytest.approx(found.upper / found.lower, rel=1e-15)
    assert repr(found) == str(found) == text(found.table, "l2")
    assert repr(found).endswith(f"ratio at most {decimals.ratio(found.upper, found.lower)}")
    with pytest.raises(TypeError, match=r"no table: say bracket\(\.\.\.\)\.table\['value'\]"):
        found["value"]
    with pytest.raises(AttributeError, match=r"bracket\(\.\.\.\)\.table\.set_index"):
        found.set_index("quantity")
    with pytest.raises(AttributeError, match=r"a bracket has no 'lowest'$"):
        found.lowest  # noqa: B018
    assert copy.deepcopy(found).lower == found.lower


@pytest.mark.parametrize(
    ("lower", "upper", "ratio"),
    [(1.0, 3.0, 3.0), (0.0, 2.0, math.inf), (0.0, 0.0, math.nan), (math.nan, 1.0, math.nan)],
)
def test_ratios_of_what_is_there(lower, upper, ratio):
    rows = [("lower_x", "lower", lower), ("upper_y", "upper", upper)]
    rows = [row for row in rows if not math.isnan(row[2])]
    frame = pd.DataFrame(rows, columns=["quantity", "direction", "value"]).assign(status="ok")
    found = Bracket(frame, "l2").ratio
    assert found == pytest.approx(ratio, nan_ok=True)
    assert not found < ratio


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (torch.zeros(0, 3), ValueError, "no points"),
        (torch.zeros(5, 4), ValueError, r"shape \(5, 4\), expected \(n, 3\)"),
        (torch.zeros(5, 3, dtype=torch.uint8), TypeError, "uint8"),
        ({"train": torch.full((2, 3), math.inf)}, ValueError, "data 'train': contains NaN or inf"),
    ],
)
def test_bad_data_are_errors(data, error, match):
    with pytest.raises(error, match=match):
        bracket(small(), (3,), data=data, methods=["lower_jacobian"])


@pytest.mark.parametrize("shape", [3, "3", (3.0,), (0,), (-2,), ("a",), ((3,), 2), None])
def test_a_bad_input_shape_is_an_error_with_its_value(shape):
    with pytest.raises(ValueError, match=rf"input_shape {re.escape(repr(shape))}: allowed are pos"):
        bracket(small(), shape)


def test_bad_arguments_are_errors():
    with pytest.raises(ValueError, match="norm 'l3': allowed are l2, linf, l1"):
        bracket(small(), (3,), norm="l3")
    with pytest.raises(ValueError, match="unknown bound 'upper_x'"):
        bracket(small(), (3,), methods=["upper_x"])
    with pytest.raises(TypeError, match="model: str"):
        bracket("resnet", (3,))


MODEL = """
import torch
from torch import nn
from torch.nn import functional as F
from helper import WIDTH

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv(x))

    def lipschitz_structure(self):
        from lipdescent import chain, residual
        return chain(residual(self.conv), nn.ReLU())

def net():
    return nn.Sequential(nn.Conv2d(1, WIDTH, 3), Block(), nn.Flatten(), nn.Linear(50, 3))
"""


def test_the_command_in_a_fresh_directory(tmp_path, monkeypatch):
    (tmp_path / "helper.py").write_text("WIDTH = 2\n")
    (tmp_path / "mine.py").write_text(MODEL)
    monkeypatch.syspath_prepend(tmp_path)
    import mine

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = mine.net().eval()
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    np.savez(tmp_path / "x.npz", train_inputs=points(4).numpy(), train_labels=np.arange(4))
    command = [sys.executable, str(SCRIPT), "--model", "mine.py:net", "--input-shape", "1,7,7"]
    command += [
        "--weights",
        "w.safetensors",
        "--data",
        "x.npz",
        "--methods",
        ", ".join([*LAYER_BOUNDS, ""]),
    ]
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    options["env"] = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, **options)
    assert run.returncode == 0, run.stderr
    frame = bracket(net, (1, 7, 7), data={"train": points(4)}, methods=LAYER_BOUNDS).table
    assert text(frame, "l2").splitlines()[-1] in run.stdout
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SystemExit, match=r"error: --data helper\.py: not a readable npz or npy file"
    ):
        main(["bracket", *command[2:-4], "--data", "helper.py"])


FOREIGN = """
import random as itself
from torch import nn
from torch.nn import functional as F
def net(): return nn.Linear(3, 2)
def key(): return {}["a"]
def none(): return None
"""


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("random.py").write_text(FOREIGN)
    Path("broken.py").write_text("def net(:")
    np.save("x.npy", np.zeros((4, 3)))
    np.save("integers.npy", np.arange(3))
    torch.save({"weight": torch.zeros(2, 3)}, "w.pt")


def test_a_model_file_may_have_the_name_of_a_standard_module(foreign):
    standard = sys.modules["random"]
    net = foreign_network.load_model("random.py:net")
    assert isinstance(net, nn.Linear)
    assert not net.training
    assert sys.modules["random"] is standard
    assert sys.path[0] != str(Path.cwd())
    assert foreign_network.load_data("x.npy", (3,))[""].shape == (4, 3)


def test_data_may_be_a_studys_data_set_which_holds_a_stamp(tmp_path):
    data = random_data((3,), 2, 4)
    data.save(tmp_path / "x.npz", {"rule": "dataset", "recipe": "r"})
    found = foreign_network.load_data(str(tmp_path / "x.npz"), (3,))
    assert found.keys() == {"train", "test"}
    assert np.array_equal(found["train"], data.train_inputs)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (("model", "random.py:key"), r"KeyError: 'a' \(random\.py, line 6\)"),
        (("model", "random.py:none"), "returns a NoneType, allowed is a torch.nn.Module"),
        (
            ("model", "random.py:gone"),
            "random.py has no function gone; it has net, key, none$",
        ),
        (("model", "broken.py:net"), r"SyntaxError: .*\(broken\.py, line 1\)"),
        (
            ("model", "random.py:net", "x.npy"),
            r"x\.npy: neither a safetensors file nor one of torch",
        ),
        (("data", "integers.npy", (3,)), r"no floating-point array \(n, 3\) in it, only int64"),
        (("data", "w.pt", (3,)), "w.pt: not a readable npz or npy file"),
        (("shape", "x"), "--input-shape x: allowed are positive integers"),
        (("shape", "3,0"), "--input-shape 3,0: allowed"),
    ],
)
def test_bad_files_are_named(foreign, call, match):
    kind, *arguments = call
    with pytest.raises(ValueError, match=match):
        getattr(foreign_network, f"load_{kind}")(*arguments)


def test_layers_of_dtypes_that_do_not_run_together_are_an_error():
    mixed = nn.Sequential(nn.Linear(3, 3).double(), nn.Linear(3, 2)).eval()
    with pytest.raises(ValueError, match=r"does not run: .*0\.weight is torch\.float64, 1\.weight"):
        bracket(mixed, (3,), methods=["upper_layer_product"])


def test_one_point_is_enough_but_for_pairs():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    methods = ["lower_pairs", "lower_jacobian", "upper_layer_product"]
    frame = bracket(model, (3,), data=torch.zeros(1, 3), methods=methods).table.set_index(
        "quantity"
    )
    assert frame.status["lower_pairs"] == "not_applicable"
    assert "a pair needs at least 2" in frame.reason["lower_pairs"]
    assert 0 < frame.value["lower_jacobian"] <= frame.value["upper_layer_product"]


def test_what_proves_nothing_says_so():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).eval()
    model[2].weight.data.zero_()
    frame = bracket(model, (3,), methods=["lower_jacobian"], budget=float("inf")).table
    row = frame.set_index("quantity").loc["lower_jacobian"]
    assert (row.value, row.direction) == (0, "lower")
    assert "proves nothing" in row.reason


def test_many_layers():
    """The number of paths through them is beyond float64."""
    layers = [part for _ in range(210) for part in (nn.Linear(32, 32), nn.ReLU())]
    model, data = nn.Sequential(*layers).eval(), torch.ones(2, 32)
    frame = bracket(model, (32,), data=data, methods=["lower_jacobian"]).table
    assert 0 <= frame.value.iloc[0] < 1


class InDouble(nn.Module):
    """Whatever it is given, its products are in float64."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2).double()

    def forward(self, x):
        return self.linear(unknown(x.double()))


def with_batchnorm(variance, eps):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, eps=eps), nn.ReLU()).eval()
    model[1].running_var[1] = variance
    return model


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (
            lambda: with_batchnorm(-1.0, 1e-5), None,
            r"^1 \(BatchNorm1d\): running_var = -1 with eps = 1e-05; allowed is running_var \+ eps",
        ),
        (lambda: with_batchnorm(-1e-5, 1e-5), None, r"running_var = -1e-05 with eps = 1e-05"),
        (lambda: with_batchnorm(0.0, 0.0), None, r"running_var = 0 with eps = 0; allowed"),
        (lambda: nn.Linear(3, 2), torch.tensor([[0.0, 0, -1e308]], dtype=torch.float64),
         r"^data: contains 1e\+308; allowed are numbers up to 1e\+150"),
        (lambda: nn.Linear(3, 2, device="meta"), None, r"^weight is on the meta device, .*allowed"),
        (InDouble, None, r"^the network \(Opaque\) does not compute in torch.float32: .*allowed"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_named(make, data, message):
    methods = ["lower_jacobian", "lower_pairs"]
    with pytest.raises(ValueError, match=message):
        bracket(make().eval(), (3,), data=data, methods=methods)


def test_a_network_in_double_that_says_what_it_computes():
    class Described(InDouble):
        def lipschitz_structure(self):
            return chain(self.linear)

    frame = bracket(
        Described().eval(), (3,), methods=["lower_jacobian", "upper_layer_product"]
    ).table
    lower, upper = best(frame)
    assert 0 < lower <= upper < 1.001 * lower


def test_the_largest_data_still_have_distances():
    data = torch.tensor([[1e150, 0, 0], [-1e150, 1e150, 0], [0, 0, 1.0]], dtype=torch.float64)
    methods = ["lower_pairs", "lower_convex_combinations", "lower_gaussian", "lower_ascent"]
    frame = bracket(nn.Linear(3, 2).eval(), (3,), data=data, methods=methods).table
    assert set(frame.status) == {"ok"}
    assert np.isfinite(frame.value).all()


class Several(nn.Module):
    """A dictionary of outputs, one of them nested, of which the last is no layer's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 4)

    def forward(self, x):
        return {"logits": self.a(x), "aux": (self.b(x), x)}


@pytest.mark.parametrize(("output", "layer"), [(0, "a"), ("logits", "a"), (1, "b"), ("aux.0", "b")])
def test_one_of_several_outputs(output, layer):
    net = Several().eval()
    found = bracket(net, (3,), output=output, methods=["upper_layer_product", "lower_jacobian"])
    truth = float(torch.linalg.matrix_norm(getattr(net, layer).weight.detach().double(), 2))
    assert found.lower <= truth <= found.upper <= truth * (1 + 1e-6)


def test_an_output_that_there_is_not_names_those_that_there_are():
    for wrong in ("head", 3, -1, True):
        with pytest.raises(ValueError, match=r"0 or 'logits', 1 or 'aux.0', 2 or 'aux.1'"):
            bracket(Several().eval(), (3,), output=wrong)
    with pytest.raises(ValueError, match=r"output = 1: allowed are 0$"):
        bracket(nn.Sequential(nn.Linear(3, 2)).eval(), (3,), output=1)


class FarAway(nn.Module):
    """Something else than what PyTorch traces of it, but only where no random input lies."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x):
        y = F.softsign(self.layer(x))
        return y if torch.compiler.is_compiling() else y + (x[:, :2] > 1e7)


def test_a_call_is_compared_with_what_is_read_at_the_users_own_points():
    points, methods = torch.randn(20, 3), ["upper_layer_product"]
    assert bracket(FarAway().eval(), (3,), data=points, methods=methods).upper > 0
    points[10] = 3e7
    with pytest.raises(ValueError, match="point 0 of the data 'mine'"):
        bracket(FarAway().eval(), (3,), data={"mine": points[10:]}, methods=methods)


def test_a_search_that_proves_nothing_says_where_it_has_looked():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    nn.init.zeros_(net[4].weight)
    methods = {"lower_search": {"populations": 1, "rounds": 2}}
    (row,) = bracket(net.eval(), (3,), data=torch.randn(5, 3), methods=methods).table.itertuples()
    assert row.value == 0
    assert "0 at all 5 points" in row.reason
    assert "pieces that the search reached" in row.reason


class Undeclared(nn.Module):
    """Computes ``how`` of a layer and its inputs."""

    def __init__(self, how):
        super().__init__()
        self.how, self.inner = how, nn.Linear(3, 2)

    def forward(self, *x):
        return self.how(self.inner, *x)


class Declared(Undeclared):
    """Says of itself what it computes, in another way than it computes it."""

    def lipschitz_structure(self):
        return self.inner


@pytest.mark.parametrize(
    ("kind", "how", "what_to_do"),
    [
        (
            Declared,
            lambda inner, x: 1.001 * inner(x),
            "Without lipschitz_structure.. the forward itself",
        ),
        (Declared, lambda inner, x: inner(x.float()), "casts such as x.float.. are left out where"),
        (
            Undeclared,
            lambda inner, x, y: inner(x) + y,
            r"takes a shape for each, such as \[\(3,\), \(2,\)\]",
        ),
    ],
)
def test_what_is_refused_says_what_to_do(kind, how, what_to_do):
    with pytest.raises(ValueError, match=what_to_do):
        bracket(kind(how).eval(), (3,), methods=["upper_layer_product"])


def test_a_number_for_a_weight_is_a_network_like_any_other():
    """A stack of one holds it as one number a model, without an axis for its entries."""

    class Tempered(nn.Module):
        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(torch.tensor(-2.0))

        def forward(self, x):
            return torch.tanh(x * self.temperature)

    found = bracket(Tempered().eval(), (1,), methods=[*LAYER_BOUNDS[:1], "upper_graph"])
    assert found.lower <= 2 <= found.upper <= 2 * (1 + 1e-9)
    assert found.lower > 1.9
