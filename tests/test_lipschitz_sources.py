"""Verdicts on the studies of 1-Lipschitz classification are decided by their numbers."""

import lipschitz_sources as sources
import numpy as np
import pytest
import synthetic_study

from lipdescent.experiments import margin_class, wasserstein_critic
from lipdescent.storage import table


def written(folder, name, frame):
    (folder / "experiments").mkdir(exist_ok=True)
    frame.to_csv(folder / f"experiments/{name}.csv", index=False)
    return folder


@pytest.mark.parametrize(
    ("accuracy", "certified", "trades"),
    [
        ([[0.9, 0.88], [0.8, 0.79]], [[0.1, 0.2], [0.3, 0.4]], True),
        ([[0.9, 0.78], [0.8, 0.79]], [[0.1, 0.2], [0.3, 0.4]], False),  # ranges meet
        ([[0.9, 0.88], [0.8, 0.79]], [[0.5, 0.6], [0.3, 0.4]], False),  # one option is best
    ],
)
def test_a_trade_off_is_one_beyond_the_ranges_over_seeds(accuracy, certified, trades):
    kinds = [
        ({0.0: np.array(a), 0.1: np.array(c)}, {0.0: np.array(a)})
        for a, c in zip(accuracy, certified, strict=True)
    ]
    assert sources._trade(["1", "4"], kinds)[1] is trades


def test_an_attack_that_beats_a_certificate_differs(tmp_path):
    for shares, verdict in (((0.01, 0.02), "agrees"), ((0.02, 0.01), "**differs**")):
        bounds = [
            (f"{kind}_accuracy@{radius}", "metric", "l2", "test", share)
            for kind, share in zip(("certified", "pgd"), shares, strict=True)
            for radius in (0, 0.1)
        ]
        rows = synthetic_study.make(
            widths=(16,), noises=(0.0,), bounds=bounds, architecture="hinge", point={"margin": 1}
        )
        table.write(tmp_path / "table.parquet", rows)
        assert sources.pareto_front(tmp_path)["attacks_verdict"] == verdict


def test_margins_that_the_construction_misses_differ(tmp_path):
    frame = margin_class.run(counts=[2, 3], seeds=[0], steps=20)
    found = sources.margin_class(written(tmp_path, "margin_class", frame))
    assert found["verdict"] == "agrees"
    assert (
        found["found"]
        == "points shattered, L = 1: m = 0.25: 3, m = 0.125: 5, m = 0.1: 6; none more"
    )
    frame.loc[frame["what"] == "margin", "shattered"] = False
    missed = sources.margin_class(written(tmp_path, "margin_class", frame))
    assert missed["verdict"] == "**differs**"


def test_a_critic_that_classifies_well_differs(tmp_path):
    frame = wasserstein_critic.run(seeds=[0], taus=[64], steps=100)
    found = sources.wasserstein_critic(written(tmp_path, "wasserstein_critic", frame))
    assert found["verdict"] == "agrees"
    assert [row[1] for row in found["errors"]["rows"][:3]] == ["10.00", "5.28", "0.56"]
    frame.loc[frame["classifier"] == "critic", "error"] = 0.006
    better = sources.wasserstein_critic(written(tmp_path, "wasserstein_critic", frame))
    assert better["verdict"] == "**differs**"


@pytest.mark.parametrize(("grows", "verdict"), [(2.0, "agrees"), (0.5, "**differs**")])
def test_norms_that_do_not_grow_after_the_turn_differ(tmp_path, grows, verdict):
    bounds = [
        (f"layer_{kind}_norm@0.weight", "metric", norm, "", grows)
        for kind, norm in (("frobenius", ""), ("spectral", "l2"))
    ]
    rows = synthetic_study.make(
        widths=(16,), noises=(0.0,), bounds=bounds, point={"optimizer": "sgd"}
    )
    if grows < 1:  # the losses of the made-up study grow with its constants: turn the latter
        frame = rows.to_pandas()
        norms = frame["quantity"].str.startswith("layer_")
        frame.loc[norms, "value"] = 1 / frame.loc[norms, "value"]
        kept = {name: frame[name].to_numpy() for name in frame if name != "optimizer"}
        rows = table.from_columns(len(frame), point={"optimizer": "sgd"}, **kept)
    table.write(tmp_path / "table.parquet", rows)
    assert sources.layer_norms(tmp_path)["verdict"].startswith(verdict)
