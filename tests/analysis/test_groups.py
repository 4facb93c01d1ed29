"""Arrays from a table's file, read a part at a time, are those of the whole table."""

import numpy as np
import pyarrow as pa
import pytest
import synthetic_study

from lipdescent.analysis import groups, ladder
from lipdescent.storage import table


@pytest.mark.parametrize("rows_of_a_part", [7, 10_000_000])
def test_a_file_in_parts_gives_the_arrays_of_the_table(tmp_path, rows_of_a_part):
    whole = synthetic_study.make()
    shuffled = whole.take(np.random.default_rng(0).permutation(whole.num_rows))
    path = tmp_path / "t.parquet"
    with pa.parquet.ParquetWriter(path, table.COLUMNS) as writer:
        writer.write_table(shuffled, row_group_size=rows_of_a_part)
    assert groups.group_names(path) == groups.group_names(whole) == [("mnist1d", "mlp")]
    expected = groups.group_of(whole, dataset="mnist1d", architecture="mlp")
    found = groups.load_group(path, dataset="mnist1d", architecture="mlp")
    assert list(found.series) == list(expected.series)
    for key, values in expected.series.items():
        np.testing.assert_array_equal(found.series[key], values)
    for name in (*groups.AXES, "diverged"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.not_applicable == expected.not_applicable


def test_values_land_in_their_cells(tmp_path):
    """Against the rows themselves, looked up one by one."""
    whole = synthetic_study.make()
    group = groups.group_of(whole, dataset="mnist1d", architecture="mlp")
    rows = whole.to_pylist()
    for row in rows[:: max(1, len(rows) // 200)]:
        place = tuple(
            int(np.flatnonzero(getattr(group, name) == row[name])[0]) for name in groups.AXES
        )
        if group.diverged[place]:
            continue
        key = groups.Series(*(row[name] for name in groups.Series._fields))
        assert group.series[key][place] == row["value"]


def test_a_group_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path, synthetic_study.make())
    with pytest.raises(
        ValueError, match="no rows of mnist1d/vit in the table; it has: mnist1d/mlp"
    ):
        groups.load_group(path, dataset="mnist1d", architecture="vit")


def test_truncated_foreign_and_misplaced_files_are_named(tmp_path):
    path = tmp_path / "results/another/table.parquet"
    table.write(path, synthetic_study.make())
    with pytest.raises(ValueError, match="its place is that of study another"):
        groups.group_names(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"table\.parquet: truncated, altered or not a Parq"):
        groups.group_names(path)
    pa.parquet.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ValueError, match=r"table\.parquet: columns \['x'\]"):
        groups.group_names(path)


def test_a_foreign_table_is_put_aside_so_that_it_is_made_anew(tmp_path):
    path = tmp_path / "results/another/table.parquet"
    table.write(path, synthetic_study.make())
    message = r"its place is that of study another.*table\.parquet\.broken"
    with pytest.raises(ValueError, match=message):
        groups.load_group(path, dataset="mnist1d", architecture="mlp")
    assert not path.exists()


def test_an_estimate_stands_in_only_where_nothing_is_proved():
    def sides(*bounds):
        whole = synthetic_study.make(bounds=bounds, not_applicable=("upper_layer_product",))
        group = groups.group_of(whole, dataset="mnist1d", architecture="mlp")
        found = ladder.sides(group, "l2")
        return group, {name: np.isfinite(values).all() for name, values in found.items()}

    proved = ("lower_pairs", "lower", "l2", "train", 0.5)
    estimates = [("lower_jacobian", "estimate", "l2", split, 0.8) for split in ("train", "test")]
    group, found = sides(*estimates)
    assert found == {"estimate": True, "upper": False}
    assert ladder.absence(group, "upper").startswith("not applicable")
    assert ladder.absence(group, "lower") == "none in this study"
    assert sides(proved, *estimates)[1] == {"lower": True, "upper": False}
    assert sides()[1] == {"lower": False, "upper": False}


def test_an_architecture_at_each_point_is_a_group(tmp_path):
    """A study with two further axes, of which one does not concern the second architecture."""
    parts = [
        (synthetic_study.make(widths=(4, 8), seeds=(0,), point=point, architecture=name), point)
        for name, point in (
            ("mlp", {"depth": 1, "rate": 1, "optimizer": "sgd"}),
            ("mlp", {"depth": 2, "rate": 0.5, "optimizer": "adam"}),
            ("cnn", {"rate": 0.5, "optimizer": "sgd"}),
        )
    ]
    axes = {"depth": "integer", "rate": "number", "optimizer": "text"}
    path = tmp_path / "t.parquet"
    table.gather((rows for rows, _ in parts), parquet=path, csv=tmp_path / "t.csv", axes=axes)
    assert groups.axes(path) == axes
    names = [variant for _, variant in groups.group_names(path)]
    assert names == [
        "mlp+depth=1+rate=1+optimizer=sgd",
        "mlp+depth=2+rate=0.5+optimizer=adam",
        "cnn+rate=0.5+optimizer=sgd",
    ]
    for (rows, point), name in zip(parts, names, strict=True):
        found = groups.load_group(path, dataset="mnist1d", architecture=name)
        assert (found.variant, found.point) == (name, point)
        assert found.num_parameters.tolist() == [200, 400]
        alone = groups.group_of(rows, dataset="mnist1d", architecture=name)
        for key, values in alone.series.items():
            np.testing.assert_array_equal(found.series[key], values)
    for absent in ("mlp", "cnn+depth=1+rate=0.5+optimizer=sgd", "mlp+depth=1"):
        with pytest.raises(ValueError, match=r"no rows of .*mlp\+depth=1\+rate=1"):
            groups.load_group(path, dataset="mnist1d", architecture=absent)
