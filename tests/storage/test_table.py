import numpy as np
import pyarrow as pa
import pytest

from lipdescent.storage import table


def rows(value, *, direction="upper", norm="l2", status="ok", quantity="q", width=8, epoch=0):
    values = np.atleast_1d(np.asarray(value, dtype=float))
    n = len(values)
    return table.from_columns(
        n, study="s", dataset="d", architecture="a", width=width, num_parameters=10,
        label_noise=np.zeros(n), seed=np.arange(n), epoch=np.full(n, epoch), split="",
        quantity=quantity, direction=direction, norm=norm, value=values,
        status=np.full(n, status),
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


def test_truncated_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    table.write(path, rows([1.0]))
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"t.parquet: truncated, altered or not a Parquet file"):
        table.read(path)
    pa.parquet.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ValueError, match=r"t.parquet: columns \['x'\]"):
        table.read(path)


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
