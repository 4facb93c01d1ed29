"""Is every bound of a study one that can be taken of its networks? Asked before any job.

A random network of the smallest width is trained for an epoch of a few random points, and measured
by everything that the study asks for (:mod:`lipdescent.measuring.bound_trial`, in a process of its
own, which has PyTorch). What passed is kept in Snakemake's folder and not tried again until its
code or its options change. Never imports torch.
"""

import hashlib
import itertools
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from lipdescent.jobs import forking
from lipdescent.plugins import bound_entries
from lipdescent.study import asked_once, axes, checkpoint_files, network_checks, network_costs
from lipdescent.study.code_digest import code_versions, measurement_files, training_files
from lipdescent.study.recipes import with_digests
from lipdescent.study.schema import ConfigError
from lipdescent.study.sections import data_module, data_options, training_options

KEPT = "trials"
# The largest number of points of each split.
POINTS = 8


# Trials that have been begun: their tasks, as JSON -> what waits for the answer.
_BEGUN: dict[str, Callable[[], tuple[Any, str]]] = {}


def begin(config: dict[str, Any]) -> None:
    """Begin what :func:`check` will wait for."""
    tasks = {_key(task): task for task in _tasks(config)}
    kept = asked_once.kept(KEPT)
    if new := [task for key, task in tasks.items() if key not in kept]:
        _BEGUN[json.dumps(new)] = _begun(new, config["execution"]["threads"])


def check(config: dict[str, Any]) -> None:
    """Try what has not been tried before.

    Raises
    ------
    ConfigError
        One line per bound and architecture, with what the bound said.
    """
    tasks = {_key(task): task for task in _tasks(config)}
    kept = asked_once.kept(KEPT)
    new = {key: task for key, task in tasks.items() if key not in kept}
    if not new:
        return
    answer = _tried(list(new.values()), config["execution"]["threads"])
    if answer is None:
        return
    network_costs.LOADED.update(
        {name: (tuple(shape), *counts) for name, shape, *counts in answer["loaded"]}
    )
    if answer["loaded"]:
        network_checks.check(config)
    mistakes = answer["mistakes"]
    passed = [key for key, wrong in zip(new, mistakes, strict=True) if not wrong]
    asked_once.keep(KEPT, kept | dict.fromkeys(passed, "passed"))
    if any(mistakes):
        raise ConfigError("\n".join(dict.fromkeys(line for lines in mistakes for line in lines)))


def _tasks(config: dict[str, Any]) -> list[dict[str, Any]]:
    """One per data set, architecture and point: what is built, trained and measured."""
    grid = config["grid"]
    return [
        _task(axes.at(config, point), dataset, name)
        for dataset, name in itertools.product(grid["dataset"], grid["architecture"])
        for point in axes.points(config, dataset, name)
    ]


def _task(config: dict[str, Any], dataset: str, name: str) -> dict[str, Any]:
    shape, classes, points = network_costs.shape_and_classes(config, dataset)
    network = network_costs.network(config, dataset, name, min(config["grid"]["width"]))
    known = bool(shape and classes)
    return {
        "dataset": dataset,
        # Points whose networks and data are alike are tried once.
        "file": dataset if known else axes.data_file(config, dataset),
        "module": data_module(config, dataset),
        "architecture": name,
        "network": asdict(network),
        "load": None if known else data_options(config, dataset),
        "points": min(POINTS, points or POINTS),
        "training": checkpoint_files.training(config, training_options(config, name)),
        # With the files that they read: another file is tried anew.
        "bounds": {key: with_digests(entry) for key, entry in config["bounds"].items()},
        "quantities": config["quantities"],
        "noise_maker": config["noise_maker"],
    }


def _key(task: dict[str, Any]) -> str:
    module, training, maker = task["network"]["module"], task["training"], task["noise_maker"]
    plugins = training_files(module, training, maker) if "learning_rate" in training else []
    for name in ["metrics", *task["quantities"]]:
        plugins += measurement_files(name, module, training["loss"], maker)
    for name, entry in task["bounds"].items():
        bound, points = bound_entries.bound_of(name, entry), entry.get("points", "")
        plugins += measurement_files(bound, module, training["loss"], maker, points=points)
    if task["load"] is not None:
        plugins.append(f"lipdescent/datasets/{task['module']}.py")
    code = code_versions("train.py", "try_bounds.py", *plugins)
    text = json.dumps([task, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _begun(tasks: list[dict[str, Any]], threads: int) -> Callable[[], tuple[Any, str]]:
    # As a job of this Snakemake, so that the fork server takes it, which has imported PyTorch.
    environ = dict.fromkeys(forking.THREADS, str(threads))
    return asked_once.begin("try_bounds.py", tasks, **environ)


def _tried(tasks: list[dict[str, Any]], threads: int) -> dict[str, Any] | None:
    """What the process said that tried them; None where it has no PyTorch."""
    answer = _BEGUN.pop(json.dumps(tasks), None) or _begun(tasks, threads)
    found, why = answer()
    if found is None:
        print(f"the bounds were not tried before the jobs ({why})", file=sys.stderr)
    return found
