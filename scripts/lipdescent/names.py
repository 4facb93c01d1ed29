"""Look up a plug-in (dataset, architecture, bound, ...) by its module's name.

Adding one is adding a file: there is no registry to edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType


def known(package: str) -> list[str]:
    """Names of the public modules in ``lipdescent.<package>``, sorted."""
    parent = importlib.import_module(f"lipdescent.{package}")
    return sorted(m.name for m in pkgutil.iter_modules(parent.__path__) if m.name[0] != "_")


def resolve(package: str, name: str) -> ModuleType:
    """Import ``lipdescent.<package>.<name>``.

    Raises
    ------
    ValueError
        If there is no such module; the message lists those that exist.
    """
    names = known(package)
    if name not in names:
        raise ValueError(f"unknown {package[:-1]} {name!r}; known: {', '.join(names)}")
    return importlib.import_module(f"lipdescent.{package}.{name}")
