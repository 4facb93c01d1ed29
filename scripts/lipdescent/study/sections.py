"""What of a study's configuration belongs to one architecture, one data set, one figure."""

from typing import Any

from lipdescent.plugins.signatures import has_forward


def training_options(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """The training section, with the architecture's own ``training`` entries on top."""
    return {**config["training"], **config["architectures"][architecture].get("training", {})}


def training_key(config: dict[str, Any], architecture: str, option: str) -> str:
    """Where an option of an architecture's training stands: its own entry, or the section."""
    own = option in config["architectures"][architecture].get("training", {})
    return f"architectures.{architecture}.training.{option}" if own else f"training.{option}"


def build_options(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """What goes to the architecture's ``build``: its entry less ``module`` and ``training``."""
    entry = config["architectures"][architecture]
    return {k: v for k, v in entry.items() if k not in ("module", "training")}


def module(config: dict[str, Any], architecture: str) -> str:
    """File name of an architecture in scripts/lipdescent/architectures."""
    return config["architectures"][architecture].get("module", architecture)


def exported(config: Any) -> bool:
    """Whether networks of a study will be exported: a ``forward`` of their own is read so.

    The configuration need not have been checked; False where it says no such thing.
    """
    try:
        return any(has_forward(module(config, name)) for name in config["grid"]["architecture"])
    except (AttributeError, KeyError, OSError, SyntaxError, TypeError, ValueError):
        return False


def data_module(config: dict[str, Any], dataset: str) -> str:
    """File name of a data set in scripts/lipdescent/datasets."""
    return config["datasets"].get(dataset, {}).get("module", dataset)


def data_options(config: dict[str, Any], dataset: str) -> dict[str, Any]:
    """What goes to the data set's ``load``: its entry less ``module``."""
    return {k: v for k, v in config["datasets"].get(dataset, {}).items() if k != "module"}


def drawn(config: dict[str, Any], kind: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Figures or comparisons: name -> its file's name, and options.

    An entry is a file's name, or ``{NAME: {module: FILE, option: value}}``.
    """
    found: dict[str, tuple[str, dict[str, Any]]] = {}
    for entry in config[kind]:
        if isinstance(entry, str):
            found[entry] = entry, {}
        else:
            ((name, given),) = entry.items()
            options = {key: value for key, value in given.items() if key != "module"}
            found[name] = given["module"], options
    return found
