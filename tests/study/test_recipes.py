"""What is asked of a study that it does not have."""

import copy

import pytest
from configurations import DEFAULT, checked

from lipdescent.study.recipes import NotInStudy, Recipes

STACK = {"dataset": "mnist1d", "architecture": "mlp", "width": "4", "seeds": "0-5"}


@pytest.mark.parametrize(
    ("rule", "wildcards", "said"),
    [
        (
            "figure",
            {"dataset": "mnist1d", "architecture": "mlp", "figure": "double_descnt"},
            "unknown figure of study default: 'double_descnt' (did you mean 'double_descent'?)",
        ),
        (
            "figure",
            {"dataset": "mnist1d", "architecture": "mpl", "figure": "slopes"},
            "unknown architecture of study default: 'mpl' (did you mean 'mlp'?); known: mlp",
        ),
        ("figure", {"dataset": "mnist", "architecture": "mlp", "figure": "slopes"}, "data set"),
        ("comparison", {"dataset": "mnist", "comparison": "over_width"}, "known: mnist1d"),
        ("comparison", {"dataset": "mnist1d", "comparison": "over_widht"}, "known: none"),
        ("dataset", {"dataset": "mnist"}, "known: mnist1d"),
        (
            "train",
            STACK | {"width": "5"},
            "stack of study default: 'mnist1d/mlp/width=5/seeds=0-5'",
        ),
        ("measure", STACK | {"measure": "metric"}, "did you mean 'metrics'"),
        ("experiment", {"experiment": "isometry"}, "known: none"),
        ("experiment_part", {"experiment": "isometry", "part": "0"}, "experiment of study"),
    ],
)
def test_what_the_study_does_not_have_is_named_with_what_it_has(rule, wildcards, said):
    with pytest.raises(NotInStudy) as found:
        Recipes(checked(copy.deepcopy(DEFAULT)), code=lambda *files: {}).recipe(rule, **wildcards)
    assert said in str(found.value)
