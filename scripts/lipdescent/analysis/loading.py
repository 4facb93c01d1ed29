"""A study's results as tidy arrays: ``lipdescent.load("results/default")``."""

from pathlib import Path

from lipdescent.analysis.groups import Group, group_names, group_of

Study = dict[tuple[str, str], Group]


def load(study: str | Path) -> Study:
    """Every group of a study: (data set, architecture) -> arrays over its axes.

    With further axes an architecture at a point is a group of its own, ``mlp+depth=3``.

    Parameters
    ----------
    study : a folder such as results/default, or a table.parquet.

    Returns
    -------
    Groups, whose ``series`` are float64 (width, label_noise, epoch, seed), NaN where there is no
    value, by what was measured: ``Series(quantity, direction, norm, split)``.
    :mod:`lipdescent.analysis.ladder` takes metrics, bounds and brackets out of them.

    Raises
    ------
    FileNotFoundError
        If there is no table; the message says what makes one.
    ValueError
        If the table is truncated, altered or of another kind.
    """
    path = table_of(study)
    return {
        (dataset, architecture): group_of(path, dataset=dataset, architecture=architecture)
        for dataset, architecture in group_names(path)
    }


def table_of(study: str | Path) -> Path:
    """The table's file; FileNotFoundError, which says what makes one, if there is none."""
    path = Path(study)
    path = path / "table.parquet" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no table there; allowed is the folder of a study that has run "
            "(results/<study>) or its table.parquet"
        )
    return path
