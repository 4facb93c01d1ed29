"""What a plug-in's file says of itself, read without importing it: options, types, constants.

Checking a configuration so imports neither torch nor the plug-ins.
"""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import Any

from lipdescent.names import LIBRARY

# What a configuration's options are given to, and what the workflow passes there itself.
FUNCTIONS = {
    "architectures": ("build", {"input_shape", "num_classes"}),
    "bounds": ("measure", {"inputs", "labels", "norms", "seed"}),
    "datasets": ("load", set()),
    "experiments": ("run", set()),
    "losses": (None, set()),
    "schedules": (None, {"updates_per_epoch", "total_updates"}),
}
# Annotations that a configuration's values can be compared with, and JSON schema's names of them.
TYPES = {"int": "integer", "float": "number", "str": "string", "Path": "string", "bool": "boolean"}
LISTS = ("Sequence", "list")


def options(package: str, name: str) -> tuple[list[str], list[str]]:
    """Options of a plug-in: all of them, and those without a default.

    They are the keyword-only parameters of its function, less those that the workflow passes.
    """
    found = _parameters(package, name)
    needed = [option for option, (_, default) in found.items() if default is None]
    return sorted(found), sorted(needed)


def default(package: str, name: str, option: str) -> Any:
    """Default of an option that is written out as a literal; None if it has none."""
    _, node = _parameters(package, name).get(option, (None, None))
    return node.value if isinstance(node, ast.Constant) else None


def types(package: str, name: str) -> dict[str, dict[str, Any]]:
    """JSON schema of the options' types, by annotations; those of other types are left out."""
    found = {option: _type(node) for option, (node, _) in _parameters(package, name).items()}
    return {option: schema for option, schema in found.items() if schema}


def constant(package: str, name: str, wanted: str) -> Any:
    """The constant ``wanted`` of a plug-in; None if it is not a literal.

    It may be taken from another module of the library (``NORMS = other.NORMS``).
    """
    return _constant(_path(package, name), wanted)


def _path(package: str, name: str) -> Path:
    path = LIBRARY / package
    return path / f"{name}.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _parameters(package: str, name: str) -> dict[str, tuple[ast.expr | None, ast.expr | None]]:
    """Annotations and defaults of the options."""
    function, ours = FUNCTIONS[package]
    path, wanted = _path(package, name), function or name
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == wanted:
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return {a.arg: (a.annotation, default) for a, default in pairs if a.arg not in ours}
    raise ValueError(f"{path}: no function {wanted}()")


def _type(node: ast.expr | None) -> dict[str, Any]:
    """JSON schema of an annotation; empty for one that has none."""
    match node:
        case ast.Name(id=name) if name in TYPES:
            return {"type": [TYPES[name]]}
        case ast.Constant(value=None):
            return {"type": ["null"]}
        case ast.Subscript(value=ast.Name(id=name), slice=entry) if name in LISTS:
            return {"type": ["array"], "items": _type(entry)}
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            one, other = _type(left), _type(right)
            if one and other:
                kinds = dict.fromkeys(one["type"] + other["type"])
                return {**one, **other, "type": list(kinds)}
    return {}


@cache
def _constant(path: Path, wanted: str) -> Any:
    tree = ast.parse(path.read_text())
    for node in tree.body:
        names = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(name, ast.Name) and name.id == wanted for name in names):
            match node.value:
                case ast.Attribute(value=ast.Name(id=module), attr=attribute):
                    other = _imported(tree, module)
                    return _constant(other, attribute) if other else None
            try:
                return ast.literal_eval(node.value)
            except ValueError:
                return None
    return None


def _imported(tree: ast.Module, module: str) -> Path | None:
    """File of a module of the library that is called ``module`` in ``tree``."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lipdescent"):
            for alias in node.names:
                path = LIBRARY.joinpath(*node.module.split(".")[1:], f"{alias.name}.py")
                if module == (alias.asname or alias.name) and path.exists():
                    return path
    return None
