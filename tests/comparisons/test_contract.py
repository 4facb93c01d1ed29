"""Every comparison keeps the contract of comparisons/_contract.py."""

import contracts
import pyarrow as pa
import pytest
import synthetic_study

from lipdescent.analysis import groups
from lipdescent.comparisons._contract import ComparisonPlugin
from lipdescent.study.code_digest import caption

COMPARISONS = contracts.plugins("comparisons")
STATISTICS = {"bootstrap": 20, "confidence": 0.9, "interpolation_accuracy": 0.995}
NAMES = ("mlp", "one_lipschitz")
every_comparison = pytest.mark.parametrize("name", COMPARISONS)


@every_comparison
def test_signature(name):
    contracts.check(COMPARISONS[name], ComparisonPlugin)
    assert contracts.needed(COMPARISONS[name].draw) == ["statistics", "losses"]


@every_comparison
def test_caption_says_what_is_shown(name):
    text = " ".join(caption(f"lipdescent/comparisons/{name}.py").split())
    assert "seeds" in text
    assert "diverged models are left out" in text.lower()


@every_comparison
def test_the_same_figure_twice_and_nothing_left_behind(name):
    rows = [
        synthetic_study.make(seeds=(0, 1), epochs=(0, 100), widths=(8, 16), architecture=own)
        for own in NAMES
    ]
    study = pa.concat_tables(rows).unify_dictionaries()
    found = {own: groups.group_of(study, dataset="mnist1d", architecture=own) for own in NAMES}
    options = {"statistics": STATISTICS, "losses": dict.fromkeys(NAMES, "cross_entropy")}
    contracts.check_drawing(lambda: COMPARISONS[name].draw(found, **options))
