"""Every figure keeps the contract of figures/_contract.py; test_figures.py looks at the drawing."""

import contracts
import pytest
import synthetic_study

from lipdescent.analysis import groups
from lipdescent.figures._contract import FigurePlugin
from lipdescent.study.code_digest import caption

FIGURES = contracts.plugins("figures")
STATISTICS = {"bootstrap": 20, "confidence": 0.9, "interpolation_accuracy": 0.995}
every_figure = pytest.mark.parametrize("name", FIGURES)


@every_figure
def test_signature(name):
    contracts.check(FIGURES[name], FigurePlugin)
    assert contracts.needed(FIGURES[name].draw) == ["statistics", "loss"]


@every_figure
def test_caption_says_what_is_shown(name):
    text = " ".join(caption(f"lipdescent/figures/{name}.py").split())
    assert "seeds" in text
    assert "diverged models are left out" in text.lower()


@every_figure
def test_the_same_figure_twice_and_nothing_left_behind(name):
    study = synthetic_study.make(seeds=(0, 1), epochs=(0, 100), widths=(8, 16, 32))
    group = groups.group_of(study, dataset="mnist1d", architecture="mlp")
    options = {"statistics": STATISTICS, "loss": "cross_entropy"}
    contracts.check_drawing(lambda: FIGURES[name].draw(group, **options))


@every_figure
def test_a_study_whose_every_network_diverged_has_all_figures(name):
    group = groups.group_of(synthetic_study.diverged(), dataset="mnist1d", architecture="mlp")
    figure = FIGURES[name].draw(group, statistics=STATISTICS, loss="cross_entropy")
    assert figure.axes or figure.texts
