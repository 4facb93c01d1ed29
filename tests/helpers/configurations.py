"""Configurations, checked as Snakemake has them checked."""

from pathlib import Path

import yaml

from lipdescent.plugins import lookup
from lipdescent.study.config import prepare

ROOT = Path(__file__).parents[2]
DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text())


def checked(config):
    """As the rules see it; ConfigError where it has a mistake."""
    return prepare(
        config,
        schema=ROOT / "workflow/schemas/config.schema.yaml",
        figures=lookup.known("figures"),
        comparisons=lookup.known("comparisons"),
        default=ROOT / "config/config.yaml",
    )
