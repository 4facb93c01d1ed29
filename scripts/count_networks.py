"""Count what networks take: a list of them in JSON on stdin, what was found on stdout."""

from lipdescent.jobs import fork_server

if __name__ == "__main__":
    fork_server.hand_over(any_threads=True)

import contextlib
import dataclasses
import json
import os
import sys
from functools import partial

import torch

from lipdescent.plugins import lookup
from lipdescent.stacks import operation_counts


def found(task: dict) -> dict:
    """Cost of one network, or the mistake that building it or a pass through it makes."""
    shape = tuple(task["input_shape"])
    try:
        build = partial(
            lookup.resolve("architectures", task["module"]).build,
            task["width"],
            input_shape=shape,
            num_classes=task["num_classes"],
            **json.loads(task["options"]),
        )
        cost, single = operation_counts.count(build, shape, num_classes=task["num_classes"])
    except Exception as error:  # it may be anybody's code
        return {"cost": None, "single": [], "mistake": f"{type(error).__name__}: {error}"}
    return {"cost": dataclasses.asdict(cost), "single": single, "mistake": ""}


def main() -> None:
    """Stdout is the answer's alone."""
    tasks = json.load(sys.stdin)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # whatever they build, it is not on a GPU
    torch.set_num_threads(1)  # or a fork would wait for threads that it does not have
    with contextlib.redirect_stdout(sys.stderr):
        answers = [found(task) for task in tasks]
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
