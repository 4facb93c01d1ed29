"""What a study runs and publishes, by its configuration. No torch here.

Paths are below results/<study>/.
"""

from typing import Any

from lipdescent.study import axes, checkpoint_files, runs, sections

KINDS = ("pdf", "png", "svg")
# Beside the start page, and always there.
PAGES = {
    "explorer.html": "Explore: any quantity over any axis",
    "findings.html": "Findings: answers and tables",
}
ALWAYS = {"provenance.json": "Provenance"}


def links(config: dict[str, Any]) -> dict[str, str]:
    """File beside the start page -> what it is, for its reader."""
    if config["experiments"]:
        tables = {f"experiments/{name}.csv": f"Table of {name}" for name in config["experiments"]}
        return tables | ALWAYS
    return PAGES | {"table.csv": "Table (CSV; the same as table.parquet)"} | ALWAYS


def ran(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration less what nothing of the study runs.

    Overlays inherit the default study: a study of experiments its grid, its bounds and its figures,
    a study of images its data set and its architecture.
    """
    if config.get("experiments"):
        kept: dict[str, Any] = {
            k: config[k] for k in ("study", "experiments", "figure") if k in config
        }
        execution = config.get("execution", {})
        return kept | {
            "execution": {k: v for k, v in execution.items() if k in ("threads", "split")}
        }
    kept = {key: value for key, value in config.items() if key != "experiments"}
    for section, axis in (("datasets", "dataset"), ("architectures", "architecture")):
        if section in kept:
            named = config["grid"][axis]
            kept[section] = {name: o for name, o in kept[section].items() if name in named}
    if checkpoint_files.pattern(config):
        kept["training"] = checkpoint_files.training(config, kept["training"])
        kept = {key: value for key, value in kept.items() if key not in axes.KEYS}
    return kept


def results(config: dict[str, Any]) -> list[str]:
    """Where the study's numbers are: its table, or those of its experiments."""
    if config["experiments"]:
        return [f"experiments/{name}.parquet" for name in config["experiments"]]
    return ["table.parquet"]


def figures(config: dict[str, Any]) -> list[str]:
    """Every figure, in each of its formats."""
    if config["experiments"]:
        names = list(config["experiments"])
    else:
        grid = config["grid"]
        names = [
            f"{dataset}/{variant}/{figure}"
            for dataset in grid["dataset"]
            for variant in runs.variants_of(config, dataset)
            for figure in sections.drawn(config, "figures")
        ]
        names += [
            f"{dataset}/{name}"
            for dataset in grid["dataset"]
            for name in sections.drawn(config, "comparisons")
        ]
    return [f"figures/{name}.{kind}" for name in names for kind in KINDS]


def files(config: dict[str, Any]) -> list[str]:
    """Everything that ``rule all`` asks for; a study with experiments publishes these alone."""
    found = [*results(config), "provenance.json", "report.html", *figures(config)]
    if not config["experiments"]:
        found += ["table.csv", "table.json", "explorer.html"]
        found += [f"findings.{kind}" for kind in ("json", "md", "html")]
    return found
