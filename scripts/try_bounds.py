"""Try the bounds of a study on random networks: tasks in JSON on stdin, what is wrong on stdout."""

from lipdescent.jobs import fork_server

fork_server.hand_over(any_threads=True)

import contextlib
import json
import os
import sys

import torch

from lipdescent.datasets import Dataset
from lipdescent.measuring import bound_trial
from lipdescent.plugins import lookup


def loaded(task: dict) -> tuple[Dataset | None, list[str]]:
    """A data set whose file does not say its shape, or why it cannot be loaded."""
    if task["load"] is None:
        return None, []
    try:
        return lookup.resolve("datasets", task["module"]).load(**task["load"]), []
    except Exception as error:  # it may be anybody's code
        return None, [f"config: datasets.{task['dataset']}: {type(error).__name__}: {error}"]


def main() -> None:
    """Stdout is the answer's alone."""
    tasks, answer = json.load(sys.stdin), os.dup(1)
    os.dup2(2, 1)
    torch.set_num_threads(1)  # or a fork would wait for threads that it does not have
    mistakes, known = [], {}
    for task in tasks:
        dataset, wrong = loaded(task)
        if dataset is not None:
            known[task["file"]] = (
                dataset.input_shape,
                dataset.num_classes,
                len(dataset.train_labels),
            )
        mistakes.append(wrong or bound_trial.mistakes(task, dataset))
    found = [(name, *facts) for name, facts in known.items()]
    with contextlib.closing(open(answer, "w")) as stream:
        json.dump({"mistakes": mistakes, "loaded": found}, stream)


main()
