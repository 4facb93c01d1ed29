"""What the explorer's page is given, against the table and the statistics."""

import base64
import gzip
import json

import numpy as np
import pytest
import synthetic_study

from lipdescent.analysis import ladder, statistics
from lipdescent.analysis.groups import Series, group_of
from lipdescent.explorer.contents import contents
from lipdescent.explorer.page import html


@pytest.fixture(scope="module")
def group():
    table = synthetic_study.make(seeds=range(5), diverged=[(4, 0.0, 1)], scatter=0.2)
    return group_of(table, dataset="mnist1d", architecture="mlp")


def unpacked(found, group, key, *, last=None):
    whole = np.frombuffer(gzip.decompress(base64.b64decode(found["values"])))
    shape = group.diverged.shape if last is None else (*group.diverged.shape[:3], last)
    start = found["groups"][0]["values"][key]
    return whole[start : start + np.prod(shape)].reshape(shape)


def test_all_seeds_to_the_bit(group):
    found = contents([group], confidence=0.95)
    assert found["whole"]
    for key, values in group.series.items():
        split = "" if key.quantity.startswith(("train_", "test_")) else key.split
        address = ".".join(filter(None, [key.quantity, key.norm, split]))
        np.testing.assert_array_equal(unpacked(found, group, address), values)
    lower, upper = ladder.bracket(group, "l2")
    np.testing.assert_array_equal(unpacked(found, group, "best_lower.l2"), lower)
    np.testing.assert_array_equal(unpacked(found, group, "best_upper.l2"), upper)
    accuracy = ladder.metric(group, "test_accuracy")
    np.testing.assert_array_equal(unpacked(found, group, "test_error"), 1 - accuracy)


def test_what_does_not_fit_is_summarised_outwards(group):
    found = contents([group], confidence=0.9, largest=1)
    assert not found["whole"]
    assert "2 of 3 epochs" in found["said"]
    group_found = found["groups"][0]
    assert group_found["epoch"] == [0, 100]
    assert group_found["seed"] == []
    shape = (*group.diverged.shape[:2], 2, 4)
    whole = np.frombuffer(gzip.decompress(base64.b64decode(found["values"])))
    for key, side in (("upper_lipsdp.l2", 1), ("lower_jacobian.l2.train", -1)):
        start = group_found["values"][key]
        told = whole[start : start + np.prod(shape)].reshape(shape)
        name, norm, split = [*key.split("."), ""][:3]
        direction = "upper" if side > 0 else "lower"
        series = group.series[Series(name, direction, norm, split)][:, :, [0, 2]]
        mean = statistics.mean_estimate(series, confidence=0.9, geometric=True)
        for place, wanted in enumerate(mean):
            np.testing.assert_allclose(told[..., place], wanted, rtol=1e-11)
        assert ((told[..., 0] - mean.value) * side > 0).all()
        np.testing.assert_array_equal(told[..., 3], np.isfinite(series).sum(-1))
    assert np.isclose(told[0, 0, 1, 3], 4)  # the diverged network is left out


def test_constants_have_their_unit_and_shares_their_ends(group):
    entries = {one["key"]: one for one in contents([group], confidence=0.95)["entries"]}
    for key in ("best_lower.l2", "best_upper.linf", "upper_lipsdp.l2", "lower_jacobian.l2.train"):
        assert entries[key]["unit"] == "logits per input"
    for key in ("ratio.l2", "test_error", "test_loss"):
        assert entries[key]["unit"] == ""
    for key in ("test_error", "test_accuracy", "train_accuracy"):
        assert tuple(entries[key]["ends"]) == (0, 1)
    assert tuple(entries["ratio.l2"]["ends"]) == (1, None)


def test_a_page_of_many_checkpoints_keeps_to_its_size(group):
    whole = contents([group], confidence=0.95)
    less = contents([group], confidence=0.95, largest=len(whole["values"]) - 1)
    assert not less["whole"]
    assert len(less["values"]) < len(whole["values"])


def test_the_page_holds_its_data_and_loads_nothing(group):
    page = html(contents([group], confidence=0.95))
    assert len(page) < 6e6
    assert "default-src 'none'" in page
    data = page.split('id="study">')[1].split("</script>")[0]
    assert json.loads(data)["groups"][0]["at"] == {"dataset": "mnist1d", "architecture": "mlp"}
    for outside in ('src="http', "href=", "<link", "fetch(", "import("):
        assert outside not in page.split('id="plotly">')[0]
