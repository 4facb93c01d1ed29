"""The runs of a study: one per width and block of seeds, and where they are planned."""

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from lipdescent.storage import atomic, variants
from lipdescent.storage.seed_blocks import block_name
from lipdescent.storage.variants import Value
from lipdescent.study import axes
from lipdescent.study.schema import ConfigError


def experiment_parts(config: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """Options of every job of an experiment."""
    options, split = config["experiments"][name], config["execution"]["split"].get(name)
    return [options] if split is None else [{**options, split: [v]} for v in options[split]]


@dataclass(frozen=True)
class Run:
    """One training job: a width with every label noise and a block of seeds.

    Attributes
    ----------
    at : (axis, value) of every further axis that the run's networks depend on.
    """

    dataset: str
    architecture: str
    width: int
    seeds: tuple[int, ...]
    at: tuple[tuple[str, Value], ...] = ()

    @property
    def point(self) -> dict[str, Value]:
        """Axis -> value."""
        return dict(self.at)

    @property
    def variant(self) -> str:
        """The architecture at the run's point, as files' names have it."""
        return variants.name(self.architecture, self.point)

    @property
    def path(self) -> str:
        """The run's place below results/<study>/<stage>/."""
        block = f"seeds={block_name(self.seeds)}"
        return f"{self.dataset}/{self.variant}/width={self.width}/{block}"

    @property
    def asked(self) -> dict[str, Any]:
        """What a training job is told of it."""
        told = {
            "dataset": self.dataset,
            "architecture": self.architecture,
            "width": self.width,
            "seeds": self.seeds,
        }
        return told | ({"point": self.point} if self.at else {})


def seed_blocks(config: dict[str, Any]) -> list[tuple[int, ...]]:
    """Seeds that are trained together: blocks that the study already has, then new ones.

    A block that exists stays as it is when seeds are added or ``seeds_per_block`` changes.
    """
    wanted, size = set(config["grid"]["seed"]), config["execution"]["seeds_per_block"]
    kept: list[tuple[int, ...]] = []
    for block in _recorded_blocks(config["study"]):
        if wanted.issuperset(block):
            kept.append(block)
            wanted -= set(block)
    rest = sorted(wanted)
    return kept + [tuple(rest[i : i + size]) for i in range(0, len(rest), size)]


def _recorded_blocks(study: str) -> list[tuple[int, ...]]:
    """Blocks of the study's last start; none where its plan is missing or broken."""
    try:
        recorded = json.loads(plan_file(study).read_text())["seed_blocks"]
        blocks = [tuple(sorted(block)) for block in recorded]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    sound = all(block and all(type(seed) is int for seed in block) for block in blocks)
    distinct = len({seed for block in blocks for seed in block}) == sum(map(len, blocks))
    return blocks if sound and distinct else []


def check_folder(study: str) -> None:
    """A study's results go to a folder.

    Raises
    ------
    ConfigError
        If there is a file in its place.
    """
    folder = plan_file(study).parent
    for path in (folder.parent, folder):
        if path.exists() and not path.is_dir():
            raise ConfigError(
                f"{path} is a file, and the study's results go to the folder {folder}/: "
                "move the file, or give the study another name"
            )


def record_plan(config: dict[str, Any], *, command: str = "") -> None:
    """Write down the configuration and how seeds are divided; called when jobs are about to run.

    ``command`` is what was typed to start them.
    """
    with atomic.complete(plan_file(config["study"])) as partial:
        started = datetime.now().astimezone().isoformat(timespec="seconds")
        plan = {
            "seed_blocks": seed_blocks(config),
            "config": config,
            "command": command,
            "started": started,
        }
        partial.write_text(json.dumps(plan, indent=1))


def plan_file(study: str) -> Path:
    """What the study's last run was asked to do."""
    return Path("results", study, "plan.json")


def plan_is_whole(study: str) -> bool:
    """Whether the plan is there and can be read, as status and archive do."""
    try:
        return {"config", "seed_blocks"} <= json.loads(plan_file(study).read_text()).keys()
    except (OSError, ValueError, AttributeError):
        return False


def runs_of(config: dict[str, Any]) -> list[Run]:
    """Every run of the study, widest first: long jobs that start last end last."""
    grid, blocks = config["grid"], seed_blocks(config)
    return [
        Run(dataset, architecture, width, block, tuple(point.items()))
        for width in sorted(grid["width"], reverse=True)
        for dataset in grid["dataset"]
        for architecture in grid["architecture"]
        for point in axes.points(config, dataset, architecture)
        for block in blocks
    ]


def at(config: dict[str, Any], run: Run) -> dict[str, Any]:
    """The configuration of a run's networks, see :func:`axes.at`."""
    return axes.at(config, run.point)


def variants_of(config: dict[str, Any], dataset: str) -> dict[str, tuple[str, dict[str, Value]]]:
    """Every architecture at each of its points on a data set: name -> architecture, point."""
    return {
        variants.name(architecture, point): (architecture, point)
        for architecture in config["grid"]["architecture"]
        for point in axes.points(config, dataset, architecture)
    }
