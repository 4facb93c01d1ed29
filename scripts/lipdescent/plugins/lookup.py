"""Look up a plug-in (dataset, architecture, bound, loss, ...) by its name.

Adding one is adding a file: there is no registry to edit. Listing the known names
reads file names only, so that checking a configuration imports neither torch nor the plug-ins.
"""

import importlib
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType

LIBRARY = Path(__file__).parents[1]
# Kinds of plug-ins that lie inside of a room; every other kind is a room of its own.
PLACES = {
    "fused_steps": "training.fused_steps",
    "label_noise": "training.label_noise",
    "losses": "training.losses",
    "measurements": "measuring.kinds",
    "schedules": "training.schedules",
}


def module_of(kind: str) -> str:
    """``losses`` -> ``lipdescent.training.losses``, the module or package of a kind."""
    return f"lipdescent.{PLACES.get(kind, kind)}"


def place(kind: str) -> Path:
    """The folder, or the file without its ending, of a kind of plug-ins, below the library."""
    return Path(*PLACES.get(kind, kind).split("."))


# What one plug-in of a package is called, where it is not the package's name without its s.
ONE = {"losses": "loss", "label_noise": "label noise"}


@cache
def known(package: str) -> list[str]:
    """Names in ``lipdescent.<package>``: its public modules."""
    return sorted(p.stem for p in (LIBRARY / place(package)).glob("[!_]*.py"))


def check(what: str, name: str, allowed: list[str]) -> str:
    """Return ``name`` if it is allowed.

    Raises
    ------
    ValueError
        Otherwise; the message lists what is allowed and guesses what was meant.
    """
    if name in allowed:
        return name
    close = get_close_matches(str(name), allowed, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"unknown {what} {name!r}{hint}; known: {', '.join(allowed) or 'none'}")


def resolve(package: str, name: str) -> ModuleType:
    """Import the module ``lipdescent.<package>.<name>``; ValueError if there is none."""
    check(ONE.get(package, package.rstrip("s")), name, known(package))
    return importlib.import_module(f"{module_of(package)}.{name}")


def measurement_kind(name: str) -> str:
    """Module of ``lipdescent.measuring.kinds`` behind a measurement; every bound has ``bound``."""
    return name if name in known("measurements") else "bound"
