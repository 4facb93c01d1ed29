"""A bound that fails, in bracket and in studies; what authors of bounds are given for rounding."""

import json
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from synthetic_study import make
from torch import nn

from lipdescent.analysis import groups
from lipdescent.arithmetic.rounding import certified_norm, round_down, round_up
from lipdescent.bounds._measured import check_measurement, of_the_machine
from lipdescent.bracketing.bracket import bracket
from lipdescent.bracketing.ends import best
from lipdescent.bracketing.text import text
from lipdescent.findings import document
from lipdescent.measurement import Measurement, NotApplicable
from lipdescent.measuring.kinds.certificates import smallest_upper
from lipdescent.plugins import lookup
from lipdescent.storage import table
from lipdescent.study import ending

F64 = torch.float64


def yields(*measurements, direction="upper"):
    def measure(stack, *, inputs, norms, seed):
        for m in measurements:
            if isinstance(m, Exception):
                raise m
            yield m() if callable(m) else m

    return SimpleNamespace(DIRECTION=direction, NORMS=("l2",), measure=measure)


def one(value, *, quantity="upper_mine", direction="upper", norm="l2", dtype=F64, shape=(1,)):
    return lambda: Measurement(quantity, direction, norm, torch.full(shape, value, dtype=dtype))


def in_place():
    """A bound that writes into what it is given; its value is no bound of the network."""

    def measure(stack, *, inputs, norms, seed):
        for points in inputs.values():
            points.zero_()
        yield one(1e9)()

    return SimpleNamespace(DIRECTION="upper", NORMS=("l2",), measure=measure)


FAULTS = {
    "an exception": (ZeroDivisionError("by zero"), r"ZeroDivisionError: by zero \(upper_mine"),
    "float32": (one(1e9, dtype=torch.float32), r"TypeError: .*float32 \(1,\), expected float64"),
    "two values": (one(1e9, shape=(2,)), r"ValueError: .*shape \(2,\), expected \(1,\)"),
    "negative": (one(-1.0), r"upper_mine = -1\.0; allowed are numbers >= 0 \(upper_mine\.py\)"),
    "NaN": (one(float("nan")), r"upper_mine = nan; allowed are numbers >= 0"),
    "nothing": (None, r"ValueError: yields no measurement; asked for was l2"),
    "a row twice": ((one(1e9), one(2e9)), r"yields upper_mine \(norm 'l2', split ''\) twice"),
    "a number": (1.0, r"TypeError: yields a float, expected Measurement"),
    "a direction": (one(1e9, direction="above"), r"direction 'above', allowed are upper, lower"),
    "a norm": (one(1e9, norm="linf"), r"norm 'linf', asked for was l2"),
    "a name": (one(0.1, quantity="upper_lipsdp"), r"allowed for bounds of upper_mine\.py is "),
}  # fmt: skip


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()


@pytest.fixture
def with_mine(net, monkeypatch):
    """Measure ``net`` with a bound ``upper_mine`` among others."""
    known = lookup.resolve

    def measured(mine):
        monkeypatch.setattr(
            lookup, "resolve", lambda *what: mine if what[1] == "upper_mine" else known(*what)
        )
        return bracket(net, (3,), methods=["lower_jacobian", "upper_mine", "upper_lipsdp"]).table

    return measured


@pytest.mark.parametrize("name", FAULTS)
def test_a_failing_bound_is_a_row_and_takes_nothing_from_the_others(with_mine, net, name):
    fault, match = FAULTS[name]
    faults = () if fault is None else fault if isinstance(fault, tuple) else (fault,)
    frame = with_mine(yields(*faults))
    row = frame.set_index("quantity").loc["upper_mine"]
    assert row.status == "error"
    assert np.isnan(row.value)
    assert row.reason
    with pytest.raises(AssertionError, match=match):  # re.search with its message
        raise AssertionError(row.reason)
    others = bracket(net, (3,), methods=["lower_jacobian", "upper_lipsdp"]).table
    assert best(frame) == best(others)
    assert frame[frame.quantity != "upper_mine"].value.tolist() == others.value.tolist()
    assert f"\nerror:\n  upper_mine: {row.reason}" in text(frame, "l2")


def test_a_bound_that_writes_into_its_inputs_changes_no_other(with_mine, net):
    frame = with_mine(in_place())
    others = bracket(net, (3,), methods=["lower_jacobian", "upper_lipsdp"]).table
    assert best(frame) == best(others)


def test_a_sound_bound_of_ones_own_counts_and_a_wrong_one_ends_the_run(with_mine):
    frame = with_mine(yields(one(1e9)))
    assert set(frame.status) == {"ok"}
    frame = with_mine(yields(NotApplicable("not here")))
    assert "not_applicable" in set(frame.status)
    with pytest.raises(RuntimeError, match=r"lower_jacobian = .* exceeds upper_mine = 1e-06"):
        with_mine(yields(one(1e-6)))


def test_values_where_a_bound_is_not_defined_are_not_looked_at():
    defined = torch.tensor([True, False])
    m = Measurement("upper_x", "upper", "l2", torch.tensor([1.0, 2.0], dtype=F64), defined=defined)
    check_measurement(m, "upper_x", 2, norms=["l2"])
    with pytest.raises(ValueError, match=r"values of shape \(2,\), expected \(3,\)"):
        check_measurement(m, "upper_x", 3, norms=["l2"])


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OSError(28, "No space left on device"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (KeyError("x"), False),
    ],
)
def test_faults_of_the_machine_are_no_faults_of_a_bound(error, expected):
    assert of_the_machine(error) is expected


def failed_study(tmp_path, *, widths=(2,)):
    """The table of a study in which upper_lipsdp failed at some widths."""
    frame = make().to_pandas()
    text_columns = [f.name for f in table.COLUMNS if f.type == table.TEXT]
    frame = frame.astype(dict.fromkeys(text_columns, str))
    chosen = (frame["quantity"] == "upper_lipsdp") & frame["width"].isin(widths)
    assert chosen.any()
    frame.loc[chosen, "status"] = "error"
    frame.loc[chosen, "value"] = np.nan
    return table.pa.Table.from_pandas(frame, table.COLUMNS, preserve_index=False)


def test_the_end_of_a_run_names_what_failed(tmp_path):
    assert ending.failed_bounds(tmp_path) == []
    facts = {"dataset": "d", "architecture": "a", "failed": {"upper_mine": [2, 4], "lower_x": [8]}}
    (tmp_path / "findings.json").write_text(json.dumps({"groups": [facts]}))
    log = tmp_path / "logs/measure/d/a/width=2/seeds=0-1/upper_mine.log"
    log.parent.mkdir(parents=True)
    log.write_text("noise\nerror: upper_mine: TypeError: float32 (upper_mine.py, line 3)\n")
    lines = ending.failed_bounds(tmp_path)
    assert lines[0] == (
        "error: upper_mine of d/a failed at width 2, 4: upper_mine: TypeError: float32 "
        f"(upper_mine.py, line 3) [{log}]"
    )
    assert lines[1].startswith("error: lower_x of d/a failed at width 8: see ")


def test_certificates_do_not_rest_on_a_bound_that_failed(tmp_path):
    columns = {
        "study": "s", "dataset": "d", "architecture": "a", "width": 2, "num_parameters": 1,
        "label_noise": 0.0, "seed": np.arange(2), "epoch": 0, "split": "", "direction": "upper",
    }  # fmt: skip
    rows = {
        "failed": {"quantity": "upper_mine", "norm": "", "value": np.nan, "status": "error"},
        "partly": {"quantity": "upper_b", "norm": "l2", "value": np.array([np.nan, 2.0]),
                   "status": ["error", "ok"]},
        "sound": {"quantity": "upper_c", "norm": "l2", "value": np.array([3.0, 3.0]),
                  "status": "ok"},
    }  # fmt: skip
    paths = [Path(tmp_path, f"{name}.parquet") for name in rows]
    for path, own in zip(paths, rows.values(), strict=True):
        table.write(path, table.from_columns(2, **columns, **own))
    found = smallest_upper(paths, 2)
    assert {norm: values.tolist() for norm, values in found.items()} == {"l2": [3.0, 2.0]}


def test_findings_and_figures_treat_errors_as_missing(tmp_path):
    whole = make()
    dataset, architecture = groups.group_names(whole)[0]
    width = int(groups.group_of(whole, dataset=dataset, architecture=architecture).width[0])
    group = groups.group_of(
        failed_study(tmp_path, widths=(width,)), dataset=dataset, architecture=architecture
    )
    assert group.failed == {"upper_lipsdp": [width]}
    key = next(key for key in group.series if key.quantity == "upper_lipsdp")
    assert np.isnan(group.series[key][0]).all()
    assert np.isfinite(group.series[key][1:]).all()
    assert not group.diverged.any()
    facts = {"num_models": 1, "width": [width], "label_noise": [0.0], "seed": [0], "epoch": 1}
    facts |= {"num_diverged": 0, "not_applicable": [], "failed": group.failed}
    assert f"upper_lipsdp failed with an error at 1 width ({width})" in document.about(facts)
    everything = failed_study(tmp_path, widths=range(10**4))
    group = groups.group_of(everything, dataset=dataset, architecture=architecture)
    assert "upper_lipsdp" not in {key.quantity for key in group.series}


@pytest.mark.parametrize("norm", ["l1", "linf", "l2"])
def test_a_certified_norm_is_one_by_fractions(norm):
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, F64):
        for scale in (1e-30, 1.0, 1e30):
            matrix = (scale * torch.randn(4, 3, generator=generator, dtype=F64)).to(dtype)
            exact = [[abs(Fraction(x)) for x in row] for row in matrix.tolist()]
            found = certified_norm(matrix, norm=norm)
            assert found.dtype == F64
            if norm == "l2":  # at least |A v| / |v| for every v
                rows = [[Fraction(x) for x in row] for row in matrix.tolist()]
                along = sum((3 * row[0] - 2 * row[1]) ** 2 for row in rows) / 13
                squares = max(along, *(sum(row[j] ** 2 for row in rows) for j in range(3)))
                assert Fraction(float(found)) ** 2 >= squares
                assert float(found) <= float(np.linalg.norm(matrix.double(), 2)) * (1 + 1e-12)
                continue
            sums = map(sum, exact if norm == "linf" else zip(*exact, strict=True))
            true = max(sums)
            assert true <= Fraction(float(found)) <= true * (1 + Fraction(1, 2**48))
    with pytest.raises(ValueError, match="norm 'l3': allowed are l2, linf, l1"):
        certified_norm(torch.ones(2, 2), norm="l3")


def test_rounding_moves_outwards_by_units_in_the_last_place():
    x = torch.tensor([1.0, -1.0, 0.1, 1e-320, 0.0], dtype=F64)
    product = x * torch.tensor(1 / 3, dtype=F64)
    for a, b, p in zip(x.tolist(), [1 / 3] * len(x), product, strict=True):
        true = Fraction(a) * Fraction(b)
        assert Fraction(float(round_down(p))) <= true <= Fraction(float(round_up(p)))


class TestSoftplus:
    """torch's Softplus jumps at its threshold; the certified one is log(1 + exp(beta x)) / beta."""

    def net(self, threshold, beta=1.0):
        net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Softplus(beta, threshold)).double()
        nn.init.ones_(net[0].weight)
        return net.eval()

    @pytest.mark.parametrize("threshold", [1.0, 19.0, -5.0, float("nan")])
    def test_a_jump_that_can_be_seen_has_no_upper_bound(self, threshold):
        points = torch.tensor([[1.0], [1.0 + 1e-9], [19.0], [19.0 + 1e-9]], dtype=F64)
        methods = ["upper_layer_product", "upper_graph"]
        frame = bracket(self.net(threshold), (1,), data=points, methods=methods).table
        assert list(frame.status) == ["not_applicable"] * 2
        assert frame.reason.str.contains("Softplus jumps at threshold").all()

    @pytest.mark.parametrize("beta", [1e-3, 1.0, 50.0, -2.0])
    def test_the_jump_at_the_default_threshold_proves_nothing_above_one(self, beta):
        at = 20 / beta
        points = torch.tensor([[at * (1 - 1e-12)], [at * (1 + 1e-12)], [at], [0.0]], dtype=F64)
        quotient = torch.func.vmap(nn.Softplus(beta, 20.0))(points)[:2].diff(dim=0)
        assert abs(float(quotient / points[:2].diff(dim=0))) > 1.01  # torch's own does jump
        methods = ["lower_pairs", "lower_jacobian", "upper_layer_product"]
        frame = bracket(self.net(20.0, beta), (1,), data=points, methods=methods).table
        lower, upper = best(frame)
        assert 0 < lower <= 1.0 <= upper <= 1.0 + 1e-12
