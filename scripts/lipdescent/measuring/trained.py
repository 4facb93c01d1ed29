"""One network out of a finished study: its weights, and its rows of the study's table."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from torch import nn

from lipdescent import datasets
from lipdescent.analysis.loading import table_of
from lipdescent.datasets import Dataset
from lipdescent.jobs.status import removed
from lipdescent.measuring.measure import checkpoint_stack
from lipdescent.plugins import lookup
from lipdescent.stacks.model_stack import ModelStack, tensors
from lipdescent.storage import checkpoints, stamps, table, table_columns, variants
from lipdescent.storage.checkpoints import Checkpoints
from lipdescent.storage.stamp_differences import differences
from lipdescent.storage.variants import Value
from lipdescent.study import archive
from lipdescent.study.code_digest import code_versions

# Behind what a network computes, of the files that its training rests on.
NETWORKS = ("lipdescent/architectures/", "lipdescent/constrained/")


@dataclass(frozen=True)
class Trained:
    """One checkpoint of one network.

    Attributes
    ----------
    study : its folder.
    cell : axis -> value; None on an axis that these networks do not depend on.
    run : the place of its stack below checkpoints/, measurements/ and logs/measure/.
    rows : measurement -> what it gave of this checkpoint, rows of the study's table.
    saved : every checkpoint of its stack.
    stack : it alone, as its bounds were taken: constrained layers as ordinary ones in float64.
    """

    study: Path
    cell: dict[str, Any]
    run: str
    rows: dict[str, list[dict[str, Any]]]
    saved: Checkpoints
    dataset: Dataset
    stack: ModelStack

    @property
    def named(self) -> str:
        """``dataset mnist1d, architecture mlp, width 64, ...``."""
        return _named(self.cell)

    @property
    def network(self) -> nn.Module:
        """In eval mode, its tensors those of :attr:`stack`, bit for bit."""
        for name, tensor in tensors(self.stack.module).items():
            tensor.data = self.stack.state[name][0].clone()  # of its type, whatever it was built in
        return self.stack.module


def trained(
    study: str | Path,
    *,
    dataset: str | None = None,
    architecture: str | None = None,
    width: int | None = None,
    label_noise: float | None = None,
    seed: int | None = None,
    epoch: int | None = None,
    **further: Value,
) -> nn.Module:
    """A network of a study as it was at one of its checkpoints, in eval mode, on the CPU.

    Its weights are the stored ones, bit for bit. Constrained layers are ordinary ones in float64
    whose norms are certified (:mod:`lipdescent.structure.materialise`), as all bounds have them.

    Parameters
    ----------
    study : a folder such as results/default, or its table.parquet.
    epoch : the last one unless given.
    further : values of the study's further axes (``vary``).

    An axis along which the study has one value may be left out.

    Raises
    ------
    FileNotFoundError
        If the study has no table, is an archive, or its checkpoints or data were removed.
    ValueError
        For an axis or a value that the study does not have, or one that is missing, with those
        that it has. For files that are broken, or were made otherwise than those behind the table.
    """
    given = {"dataset": dataset, "architecture": architecture, "width": width, "epoch": epoch}
    return find(study, {**given, "label_noise": label_noise, "seed": seed, **further}).network


def find(study: str | Path, given: Mapping[str, Any]) -> Trained:
    """The checkpoint that ``given`` names, axis -> value (None: not given); errors as above."""
    path = table_of(study)
    cell = _cell(table.read(path), given, study)
    folder, made = path.parent, _stamp(path)["inputs"]
    if (folder / archive.SUMS).exists():
        raise FileNotFoundError(
            f"{folder}: an archive, unpacked, has a study's table but not its networks; allowed is "
            "the folder where the study has run"
        )
    rows: dict[str, list[dict[str, Any]]] = {}
    for name in sorted(name for name in made if name.startswith(_place(cell))):
        found = _at(table.read(_there(folder / name)), cell)
        if found.num_rows:  # or it is of another block of seeds
            _check(folder / name, made[name])
            rows[name] = found.to_pylist()
    run = Path(next(iter(rows))).parent.relative_to("measurements").as_posix()
    stack_file = f"checkpoints/{run}.safetensors"
    saved = checkpoints.read(_there(folder / stack_file))
    files = {stack_file}
    for name in rows:
        inputs = _stamp(folder / name)["inputs"]
        files |= {source for source in inputs if source.startswith("datasets/")}
        for source in inputs.keys() & files:
            _check(folder / source, inputs[source])
    _check_code(folder / stack_file, saved)
    (data_file,) = files - {stack_file}
    dataset = datasets.read(folder / data_file)
    replica = (saved.label_noise == cell["label_noise"]) & (saved.seed == cell["seed"])
    model = ((saved.epoch == cell["epoch"])[:, None] & replica).flatten()
    stack = checkpoint_stack(saved, dataset)[model]
    by_name = {Path(name).stem: of_one for name, of_one in rows.items()}
    return Trained(folder, cell, run, by_name, saved, dataset, stack)


def _cell(rows: pa.Table, given: Mapping[str, Any], study: str | Path) -> dict[str, Any]:
    """Axis -> value of the one checkpoint, in the order in which the axes are looked at."""
    axes = ["dataset", "architecture", *table.axes(rows), "width", "label_noise", "seed", "epoch"]
    for name in given:
        lookup.check(f"axis of {study}", name, axes)
    cell: dict[str, Any] = {}
    for axis in axes:
        there = sorted(v for v in rows[axis].unique().to_pylist() if v is not None) or [None]
        value, listed = given.get(axis), ", ".join(map(_label, there))
        listed += f" (at {_named(cell)})" if cell else ""
        same = [v for v in there if v == value or _label(v) == str(value)]
        if value is not None and not same:
            raise ValueError(f"{axis} {value!r}: {study} has {listed}")
        if value is None and len(there) > 1 and axis != "epoch":
            raise ValueError(f"{axis} is missing: {study} has {listed}")
        cell[axis] = there[-1] if value is None else same[0]
        rows = _at(rows, {axis: cell[axis]})
    return cell


def _label(value: Value | None) -> str:
    return "none" if value is None else variants.label(value)


def _named(cell: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_label(v)}" for name, v in cell.items() if v is not None)


def _at(rows: pa.Table, cell: Mapping[str, Any]) -> pa.Table:
    """Rows that have these values; axes on which networks do not depend are null, or missing."""
    for axis, value in cell.items():
        if axis in rows.column_names:
            column = rows[axis].cast(pa.string()) if isinstance(value, str) else rows[axis]
            rows = rows.filter(pc.is_null(column) if value is None else pc.equal(column, value))
    return rows


def _place(cell: Mapping[str, Any]) -> str:
    """Where the measurements of the networks of these data set, architecture, point, width are."""
    fixed = table_columns.NAMES
    point = {n: value for n, value in cell.items() if n not in fixed and value is not None}
    variant = variants.name(str(cell["architecture"]), point)
    return f"measurements/{cell['dataset']}/{variant}/width={cell['width']}/"


def _there(path: Path) -> Path:
    if not path.exists():
        raise FileNotFoundError(removed(path))
    return path


def _stamp(path: Path) -> stamps.Stamp:
    found = stamps.read(_there(path))
    if found is None:
        raise stamps.OtherRecipe(f"{path} {stamps.NO_RECORD}; {stamps.START_AGAIN}")
    return found


def _check(path: Path, told: stamps.Stamp) -> None:
    """Raise OtherRecipe unless a file is what another one was made from, ``told`` in its stamp."""
    found = _stamp(path)
    why = differences(found, told) if "asked" in told else []
    if not why and found["recipe"] != told["recipe"]:
        why = ["made otherwise than what the table was made from"]
    if not why and found["content"] != told["content"]:
        why = [f"the table was made from contents {told['content']}, now they are "
               f"{found['content']}"]  # fmt: skip
    if why:
        _refuse(path, why)


def _check_code(path: Path, saved: Checkpoints) -> None:
    """Raise OtherRecipe if the networks' own code is no longer that which trained them."""
    then = _stamp(path)["code"]
    now = code_versions(f"lipdescent/architectures/{saved.origin.module}.py")
    changed = [name for name in now if name.startswith(NETWORKS) and then.get(name) != now[name]]
    if changed:
        _refuse(path, [f"scripts/{name} changed" for name in changed])


def _refuse(path: Path, why: list[str]) -> None:
    raise stamps.OtherRecipe(f"{path}: {'; '.join(why)}. {stamps.START_AGAIN.capitalize()}")
