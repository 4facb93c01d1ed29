"""Checkpoints of networks that were trained elsewhere: the files that a study's pattern names.

``checkpoints: {files: "runs/w{width}-s{seed}/epoch{epoch:03d}.pt"}`` stands for a file for each of
the study's networks and epochs. What they hold is read by the jobs
(:mod:`lipdescent.training.from_files`); here are their names, their digests, and the mistakes that
can be found without reading them. No torch here.
"""

import os
import string
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lipdescent.plugins import lookup
from lipdescent.storage import stamps
from lipdescent.study import asked_once, axes
from lipdescent.study.runs import Run, runs_of
from lipdescent.study.schema import ConfigError, mistakes

# Of a training elsewhere the study knows what it measures by.
MEASURED_BY = ("loss", "loss_options")
USUAL = ("dataset", "architecture", "width", "label_noise", "seed", "epoch")
KEPT = "digests"
# A file that changes again so soon after it was read may have the same times.
SETTLED_SECONDS = 2.0
# So many missing files are named.
NAMED = 100


def pattern(config: Mapping[str, Any]) -> str:
    """Of the files; empty where the study's networks are trained here."""
    return (config.get("checkpoints") or {}).get("files", "")


def files(config: Mapping[str, Any], run: Run) -> dict[str, tuple[int, int]]:
    """File -> epoch and seed of every checkpoint of a run, epochs outermost.

    ``config`` has been checked: each checkpoint has a file of its own.
    """
    place: dict[str, Any] = {
        "dataset": run.dataset,
        "architecture": run.architecture,
        "width": run.width,
        "label_noise": config["grid"]["label_noise"][0],
        **run.point,
    }
    named = pattern(config)
    return {
        named.format(**place, seed=seed, epoch=epoch): (epoch, seed)
        for epoch in config["grid"]["epoch"]
        for seed in run.seeds
    }


def training(config: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What a study knows of the training of its networks, of all the ``options`` of the section."""
    return {k: v for k, v in options.items() if k in MEASURED_BY or not pattern(config)}


def digests(paths: Iterable[str]) -> dict[str, str]:
    """File -> digest of its contents, empty where it cannot be read.

    A file whose size, times and place on the disk are as they were is not read again.
    """
    known, found = asked_once.kept(KEPT), {}
    before = dict(known)
    for path in paths:
        try:
            now = os.stat(path)
        except OSError:
            found[path] = ""
            continue
        place, times = [now.st_dev, now.st_ino, now.st_size], [now.st_mtime_ns, now.st_ctime_ns]
        absolute, *state = os.path.abspath(path), *place, *times
        last, was = known.get(absolute, ["", None])
        found[path] = last if was == state else stamps.file_digest(path)
        if time.time() - max(times) / 1e9 > SETTLED_SECONDS:
            known[absolute] = [found[path], state]
    if known != before:
        asked_once.keep(KEPT, known)
    return found


def check(config: dict[str, Any], written: Mapping[str | None, Mapping[str, Any]]) -> None:
    """A study of such files asks for what it can have, and all of them are there.

    Parameters
    ----------
    written : what the study itself says of its training (None), and that of each architecture.

    Raises
    ------
    ConfigError
        Naming the key or the files, and what is allowed.
    """
    if not pattern(config):
        return
    if config["experiments"]:
        raise ConfigError(
            f"config: checkpoints and experiments ({', '.join(config['experiments'])}): an "
            "experiment trains networks of its own; allowed is one of the two"
        )
    _check_labels(config)
    _check_training(config, written)
    _check_pattern(config)
    _check_there(_all_files(config))


def _check_labels(config: dict[str, Any]) -> None:
    if any(config["grid"]["label_noise"]):
        raise ConfigError(
            f"config: grid.label_noise = {config['grid']['label_noise']} with checkpoints: the "
            "labels that networks trained elsewhere saw are known only if they are those of the "
            "data set; allowed is [0]. Labels that you made wrong yourself belong to a data set of "
            "your own: its option, made an axis by vary"
        )


def _check_training(
    config: dict[str, Any], written: Mapping[str | None, Mapping[str, Any]]
) -> None:
    """Nothing is set that only a training here would read."""
    found = []
    for name, section in written.items():
        if name is None or name in config["grid"]["architecture"]:
            place = "training" if name is None else f"architectures.{name}.training"
            found += [f"{place}.{key}" for key in section if key not in MEASURED_BY]
    found += [
        f"vary.{axis.name}: {key}"
        for axis in axes.axes(config)
        for key in axis.keys
        if _of_training(config, key)
    ]
    if found:
        raise ConfigError(
            f"config: {', '.join(found)}: of networks trained elsewhere (checkpoints) nothing "
            f"reads it; allowed are {' and '.join(f'training.{key}' for key in MEASURED_BY)}, by "
            "which they are measured. What they differ in is an axis without keys, whose values "
            'are in the files\' names: vary: {learning_rate: {"0.1": {}, "0.01": {}}}'
        )


def _of_training(config: dict[str, Any], key: str) -> bool:
    """Whether only a training here would read a key."""
    section, *rest = axes.path(config, key)
    if section == "architectures" and rest[1:2] == ["training"]:
        section, rest = "training", rest[2:]
    unread = not rest or rest[0] not in MEASURED_BY
    return section in axes.KEYS or (section == "training" and unread)


def _check_pattern(config: dict[str, Any]) -> None:
    """Its placeholders are axes of every network, and each checkpoint has a file of its own."""
    named, place = pattern(config), f"config: checkpoints.files = {pattern(config)!r}"
    allowed = [*USUAL, *(axis.name for axis in axes.axes(config))]
    try:
        parts = list(string.Formatter().parse(named))
    except ValueError as error:
        raise ConfigError(f"{place}: {error}; allowed are {{NAME}} and {{NAME:FORMAT}}") from None
    for _, name, _, conversion in parts:
        if name is not None:
            with mistakes():
                lookup.check("placeholder of checkpoints.files", name, allowed)
            if conversion:
                raise ConfigError(f"{place}: !{conversion}: allowed is {{{name}:FORMAT}}")
    owners: dict[str, tuple[Run, int, int]] = {}
    for run in runs_of(config):
        try:
            found = files(config, run)
        except KeyError as error:
            raise ConfigError(
                f"{place}: networks of {run.architecture} on {run.dataset} have no axis {error}: "
                "allowed are axes of all of the study's networks"
            ) from None
        except ValueError as error:  # a format that a value does not have
            raise ConfigError(f"{place}: {error}; allowed are formats of the values") from None
        _check_names(config, found)
        wanted = len(config["grid"]["epoch"]) * len(run.seeds)
        twice = [path for path in found if path in owners]
        if twice or len(found) < wanted:
            path = (twice or [*found])[0]
            told = {name for _, name, *_ in parts}
            missing = [f"{{{name}}}" for name in _with_several_values(config) if name not in told]
            raise ConfigError(
                f"{place}: several checkpoints have the file {path}, as of {run.path}: allowed is "
                "a file for each" + (f"; not in it: {', '.join(missing)}" if missing else "")
            )
        owners |= {path: (run, *of) for path, of in found.items()}


def _check_names(config: dict[str, Any], found: Iterable[str]) -> None:
    """None that Snakemake would misread, or that `make clean` deletes."""
    place, own = f"config: checkpoints.files = {pattern(config)!r}", f"results/{config['study']}"
    for path in found:
        if "{" in path or "}" in path:
            raise ConfigError(
                f"{place}: {path}: braces in a file's name, which Snakemake takes for wildcards; "
                "allowed are names without, such as those of a link to the folder"
            )
        if os.path.abspath(path).startswith(os.path.join(os.path.abspath(own), "")):
            raise ConfigError(
                f"{place}: {path} lies among the study's own results, which are written anew and "
                f"deleted (make clean); allowed is any folder but {own}"
            )


def _with_several_values(config: dict[str, Any]) -> list[str]:
    grid = [name for name in USUAL if len(config["grid"][name]) > 1]
    return grid + [axis.name for axis in axes.axes(config) if len(axis.points) > 1]


def _all_files(config: dict[str, Any]) -> list[str]:
    return [path for run in runs_of(config) for path in files(config, run)]


def _check_there(wanted: list[str]) -> None:
    """All that are missing are told at once."""
    missing = [path for path in wanted if not os.access(path, os.R_OK) or not os.path.isfile(path)]
    if missing:
        more = f"\n  and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise ConfigError(
            f"config: checkpoints.files: {len(missing)} of {len(wanted)} files are not there, or "
            f"cannot be read, in {Path.cwd()}:\n  " + "\n  ".join(missing[:NAMED]) + more
        )
