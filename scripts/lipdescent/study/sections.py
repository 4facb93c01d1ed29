"""What of a study's configuration belongs to one architecture."""

from __future__ import annotations

from typing import Any


def training_options(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The training section, with the architecture's own ``training`` entries on top."""
    return {**config["training"], **config["architectures"][architecture].get("training", {})}


def build_options(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """What goes to the architecture's ``build``: its entry less ``module`` and ``training``."""
    entry = config["architectures"][architecture]
    return {k: v for k, v in entry.items() if k not in ("module", "training")}
