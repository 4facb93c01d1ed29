"""What sets architectures apart is said of numbers that are known, in sentences short enough."""

import pytest
import synthetic_study

from lipdescent.analysis.groups import group_names, group_of
from lipdescent.findings import between, document, in_short, measured, page

OPTIONS = {"confidence": 0.95, "interpolation_accuracy": 0.995}
RADIUS = ("mean_certified_radius", "metric", "l2", "test", 0.001)


def facts_of(name, low, high, **study):
    """An architecture whose l2 bounds are ``low`` and ``high`` times the study's constant."""
    bounds = (
        ("lower_ascent", "lower", "l2", "train", low),
        ("upper_lipsdp", "upper", "l2", "", high),
        RADIUS,
    )
    rows = synthetic_study.make(bounds=bounds, architecture=name, scatter=0, **study)
    ((dataset, variant),) = group_names(rows)
    return measured.findings(group_of(rows, dataset=dataset, architecture=variant), OPTIONS)


def texts(groups):
    return [one["text"] for one in between.in_short(groups)["mnist1d"]]


def test_fitting_constants_errors_and_radii_are_told_in_order():
    groups = [facts_of("loose", 1.5, 3.0), facts_of("tight", 0.5, 0.75)]
    fits, constants, errors, radii = texts(groups)
    assert fits == "First widths that fit the training labels (40 % noise): loose 32, tight 32."
    truth = 40 * synthetic_study.hump(128, 32)
    start = "Mean l2 constants at width 128, 40 % noise: tight "
    assert constants.startswith(start)
    low, _, high = constants.removeprefix(start).split(",")[0].split()
    assert 0.5 * truth * 0.99 < float(low) <= 0.5 * truth
    assert 0.75 * truth <= float(high) < 0.75 * truth * 1.01
    error = 0.5 * synthetic_study.hump(128, 32)
    assert errors.endswith(f"noise: loose {error:.3g}, tight {error:.3g}.")
    assert radii.startswith("Mean certified l2 radius at width 128")
    badges = [one["badges"] for one in between.in_short(groups)["mnist1d"]]
    assert badges == [["seen"], ["proved"], ["seen"], ["seen"]]


def test_many_architectures_are_named_at_both_ends():
    groups = [facts_of("mlp", d, d + 0.5, point={"depth": d}) for d in range(1, 9)]
    for text in texts(groups):
        assert len(text.split()) <= in_short.MOST_WORDS
        assert "mlp, depth=1" in text
        assert "mlp, depth=8" in text


def test_one_architecture_has_no_such_sentences():
    assert between.in_short([facts_of("mlp", 1, 2)]) == {}


@pytest.mark.parametrize("written", [page.markdown, lambda b: page.html(b, title="x")])
def test_they_open_the_findings(written):
    groups = [facts_of("loose", 1.5, 3.0), facts_of("tight", 0.5, 0.75)]
    text = written(document.report("x", groups))
    at = [text.index(one) for one in texts(groups)]
    assert at == sorted(at)
    assert at[-1] < text.index("Means over seeds, of losses")
