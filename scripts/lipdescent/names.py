"""Look up a plug-in (dataset, architecture, bound, loss, ...) by its name.

Adding one is adding a file or a function: there is no registry to edit. Listing the known names
reads file names only, so that checking a configuration imports neither torch nor the plug-ins.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from types import ModuleType

LIBRARY = Path(__file__).parent


@cache
def known(package: str) -> list[str]:
    """Names in ``lipdescent.<package>``: its public modules, or a module's public functions."""
    path = LIBRARY / package
    if path.is_dir():
        return sorted(p.stem for p in path.glob("[!_]*.py"))
    tree = ast.parse(path.with_suffix(".py").read_text())
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return sorted(name for name in functions if name[0] != "_")


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
    check(package.rstrip("s"), name, known(package))
    return importlib.import_module(f"lipdescent.{package}.{name}")


def resolve_function(module: str, name: str) -> Callable:
    """The public function ``name`` of ``lipdescent.<module>``; ValueError if there is none."""
    check(module.rstrip("s").replace("_", " "), name, known(module))
    return getattr(importlib.import_module(f"lipdescent.{module}"), name)


def measurement_kind(name: str) -> str:
    """Module of ``lipdescent.measurements`` behind a measurement; every bound has ``bound``."""
    return name if name in known("measurements") else "bound"
