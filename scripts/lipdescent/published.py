"""What a study publishes: paths below results/<study>/ by its configuration. No torch here."""

from __future__ import annotations

from typing import Any

KINDS = ("pdf", "png")


def results(config: dict[str, Any]) -> list[str]:
    """Where the study's numbers are: its table, or those of its experiments."""
    if config["experiments"]:
        return [f"experiments/{name}.parquet" for name in config["experiments"]]
    return ["table.parquet"]


def figures(config: dict[str, Any]) -> list[str]:
    """Every figure, in each of its formats."""
    grid = config["grid"]
    if config["experiments"]:
        names = list(config["experiments"])
    else:
        names = [
            f"{dataset}/{architecture}/{figure}"
            for dataset in grid["dataset"]
            for architecture in grid["architecture"]
            for figure in config["figures"]
        ]
        names += [
            f"{dataset}/{name}" for dataset in grid["dataset"] for name in config["comparisons"]
        ]
    return [f"figures/{name}.{kind}" for name in names for kind in KINDS]


def files(config: dict[str, Any]) -> list[str]:
    """Everything that ``rule all`` asks for; a study with experiments publishes these alone."""
    found = [*results(config), "provenance.json", *figures(config)]
    if not config["experiments"]:
        found += ["table.csv", *(f"findings.{kind}" for kind in ("json", "md", "html"))]
    return found
