import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from lipdescent.storage import table


def rows(
    value, *, direction="upper", norm="l2", status="ok", quantity="q", width=8, epoch=0, point=None
):
    values = np.atleast_1d(np.asarray(value, dtype=float))
    n = len(values)
    return table.from_columns(
        n, study="s", dataset="d", architecture="a", width=width, num_parameters=10,
        label_noise=np.zeros(n), seed=np.arange(n), epoch=np.full(n, epoch), split="",
        quantity=quantity, direction=direction, norm=norm, value=values,
        status=np.full(n, status), point=point,
    )  # fmt: skip


def test_round_trip(tmp_path):
    whole = table.concatenate([rows([1.0, 2.0]), rows([0.5], direction="lower", quantity="r")])
    table.write(tmp_path / "t.parquet", whole)
    assert table.read(tmp_path / "t.parquet").equals(whole)
    stacks = [whole, rows([3.0], quantity="another", width=9)]
    assert table.gather(stacks, parquet=tmp_path / "w.parquet", csv=tmp_path / "w.csv") == 4
    assert table.read(tmp_path / "w.parquet").equals(table.concatenate(stacks))
    lines = (tmp_path / "w.csv").read_text().splitlines()
    assert len(lines) == 5
    assert lines[0].replace('"', "") == ",".join(table.COLUMNS.names)


def test_every_axis_is_a_column_and_null_where_it_is_none_of_the_networks(tmp_path):
    stacks = [
        rows([1.0, 2.0], point={"depth": 2, "optimizer": "sgd", "rate": 0.5}),
        rows([3.0], point={"rate": 1}),
    ]
    axes = {"depth": "integer", "optimizer": "text", "rate": "number"}
    table.gather(stacks, parquet=tmp_path / "w.parquet", csv=tmp_path / "w.csv", axes=axes)
    found = table.read(tmp_path / "w.parquet")
    assert (table.axes(found), table.read_axes(tmp_path / "w.parquet")) == (axes, axes)
    assert found["depth"].to_pylist() == [2, 2, None]
    assert found["rate"].to_pylist() == [0.5, 0.5, 1.0]
    assert found["optimizer"].to_pylist() == ["sgd", "sgd", None]
    frame = pd.read_csv(tmp_path / "w.csv")
    assert list(frame.columns) == found.column_names
    assert frame["rate"].tolist() == [0.5, 0.5, 1.0]
    part, _ = table.parts(tmp_path / "w.parquet", ["rate", "value"])
    assert part.column_names == ["rate", "value"]


def test_bounds_of_two_points_are_not_compared_those_of_one_are():
    """Null, as of an axis that is none of the networks', is a value like others."""
    points = [{"depth": 1}, {"depth": 2}, {}]
    upper = [rows([u], quantity="u", point=p) for u, p in zip((1.0, 5.0, 3.0), points, strict=True)]
    axes = table.schema({"depth": "integer"})
    lower = [
        rows([v], direction="lower", quantity="l", point=p)
        for v, p in zip((0.9, 4.0, 2.0), points, strict=True)
    ]
    whole = [table.with_axes(one, axes) for one in (*upper, *lower)]
    table.check_order(table.concatenate(whole))
    bad = table.with_axes(rows([3.5], direction="lower", quantity="l2nd", point={}), axes)
    with pytest.raises(table.BoundViolation, match=r"depth=, .*3\.5 \(l2nd\) > .*3\.0 \(u\)"):
        table.check_order(table.concatenate([*whole, bad]))


def test_a_measurement_holds_the_point_that_its_folder_names(tmp_path):
    folder = tmp_path / "results/s/measurements/d/a+depth=2+rate=0.5/width=8/seeds=0-1"
    for point, message in (
        ({"depth": 2, "rate": 0.5}, None),
        ({"depth": 2.0, "rate": 0.5}, None),
        ({"depth": 3, "rate": 0.5}, "holds depth 3, but its place is that of depth 2"),
        ({"depth": 2}, "holds the axes depth, but its place is that of depth, rate"),
        ({}, "holds the axes none"),
    ):
        table.write(folder / "q.parquet", rows([1.0, 2.0], point=point))
        if message is None:
            assert table.read(folder / "q.parquet").num_rows == 2
        else:
            with pytest.raises(ValueError, match=message):
                table.read(folder / "q.parquet")


def test_truncated_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path, rows([1.0]))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"t.parquet: truncated, altered or not a Parquet file"):
        table.read(path)
    pa.parquet.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ValueError, match=r"t.parquet: columns \['x'\]"):
        table.read(path)


@pytest.mark.parametrize("place", ["first", "last", "renamed"])
def test_a_column_that_stands_where_no_axis_does_is_refused(tmp_path, place):
    whole = rows([1.0], point={"depth": 2})
    names = [name for name in whole.column_names if name != "depth"]
    found = {
        "first": whole.select(["depth", *names]),
        "last": whole.select([*names, "depth"]),
        "renamed": whole.rename_columns({"quantity": "quality"}),
    }[place]
    with pytest.raises(ValueError, match="expected \\['study', 'dataset'"):
        table.axes(found)


def test_unknown_columns_are_refused():
    with pytest.raises(TypeError, match="colour"):
        table.from_columns(
            1, **{f.name: "" if f.type == table.TEXT else 0 for f in table.COLUMNS}, colour=1
        )


def test_lower_above_upper_names_the_cell():
    good = [rows([2.0, 2.0], quantity="u"), rows([1.0, 2.0], direction="lower", quantity="l")]
    table.check_order(table.concatenate(good))
    bad = rows([1.0, 2.5], direction="lower", quantity="l2nd")
    with pytest.raises(
        table.BoundViolation, match=r"width=8, .*seed=1, epoch=0.*2\.5 \(l2nd\) > .*2\.0 \(u\)"
    ):
        table.check_order(table.concatenate([*good, bad]))


@pytest.mark.parametrize(
    "other", [{"norm": "linf"}, {"epoch": 1}, {"width": 4}, {"status": "diverged"}]
)
def test_other_norms_cells_and_diverged_rows_are_not_compared(other):
    lower = rows([9.0], direction="lower", quantity="l", **other)
    table.check_order(table.concatenate([rows([1.0]), lower]))


def test_metrics_are_not_bounds():
    table.check_order(table.concatenate([rows([1.0]), rows([9.0], direction="metric")]))
