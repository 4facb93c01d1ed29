"""What a plug-in's file says of itself, read without importing it: options, types, constants.

Checking a configuration so imports neither torch nor the plug-ins.
"""

import ast
import importlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from lipdescent.plugins.lookup import LIBRARY, place

# What a configuration's options are given to, and what the workflow passes there itself.
FUNCTIONS = {
    "architectures": ("build", {"input_shape", "num_classes"}),
    "bounds": ("measure", {"inputs", "labels", "largest", "norms", "seed"}),
    "comparisons": ("draw", {"statistics", "losses"}),
    "datasets": ("load", set()),
    "experiments": ("run", set()),
    "figures": ("draw", {"statistics", "loss"}),
    "label_noise": ("noisy", {"num_classes", "fraction", "seed"}),
    "losses": ("loss", set()),
    "measurements": (
        "measure",
        {"inputs", "labels", "loss", "num_classes", "ensembles_of", "own", "seed", "initial"},
    ),
    "points": ("draw", {"labels", "seed"}),
    "schedules": ("factors", {"updates_per_epoch", "total_updates"}),
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


def defaults(package: str, name: str) -> dict[str, Any]:
    """Defaults of the options that have one and have it written out as a number, text, ..."""
    found = {option: default for option, (_, default) in _parameters(package, name).items()}
    return {k: node.value for k, node in found.items() if isinstance(node, ast.Constant)}


def types(package: str, name: str) -> dict[str, dict[str, Any]]:
    """JSON schema of the options' types, by annotations; those of other types are left out."""
    path, parameters = _path(package, name), _parameters(package, name)
    found = {option: _type(node, path) for option, (node, _) in parameters.items()}
    return {option: schema for option, schema in found.items() if schema}


def paths(package: str, name: str) -> list[str]:
    """Options that are files or folders, by annotations such as ``str | Path | None``."""
    return [
        option
        for option, (node, _) in _parameters(package, name).items()
        if node is not None
        and any(isinstance(part, ast.Name) and part.id == "Path" for part in ast.walk(node))
    ]


def constant(package: str, name: str, wanted: str) -> Any:
    """The constant ``wanted`` of a plug-in; None if it is not a literal.

    It may be taken from another module of the library (``NORMS = other.NORMS``).
    """
    return _constant(_path(package, name), wanted)


def function(package: str, name: str, wanted: str) -> Callable | None:
    """The function that a plug-in calls ``wanted`` (``SIZES = _sizes.patches``); None without.

    The module that it is taken from is imported, the plug-in is not.
    """
    path, node = _definition(_path(package, name), wanted)
    match node:
        case ast.Attribute(value=ast.Name(id=module), attr=attribute):
            file, _ = _imported(path, module)
            if file:
                parts = file.relative_to(LIBRARY).with_suffix("").parts
                return getattr(importlib.import_module(".".join(("lipdescent", *parts))), attribute)
    return None


def has_forward(name: str) -> bool:
    """Whether an architecture's file has a class with a ``forward`` of its own."""
    nodes = ast.walk(_parsed(_path("architectures", name)))
    return any(isinstance(node, ast.FunctionDef) and node.name == "forward" for node in nodes)


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _path(package: str, name: str) -> Path:
    return LIBRARY / place(package) / f"{name}.py"


@cache
def _parameters(package: str, name: str) -> dict[str, tuple[ast.expr | None, ast.expr | None]]:
    """Annotations and defaults of the options."""
    wanted, ours = FUNCTIONS[package]
    path = _path(package, name)
    for node in _parsed(path).body:
        if isinstance(node, ast.FunctionDef) and node.name == wanted:
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            return {a.arg: (a.annotation, default) for a, default in pairs if a.arg not in ours}
    raise ValueError(f"{path}: no function {wanted}()")


def _type(node: ast.expr | None, path: Path) -> dict[str, Any]:
    """JSON schema of an annotation in the file ``path``; empty for one that has none."""
    match node:
        case ast.Name(id=name) if name in TYPES:
            return {"type": [TYPES[name]]}
        case ast.Name(id=name):
            where, meant = _definition(path, name)
            return _type(meant, where) if meant else {}
        case ast.Constant(value=None):
            return {"type": ["null"], "enum": [None]}
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            values = ast.literal_eval(choices)
            values = values if isinstance(values, tuple) else (values,)
            kinds = dict.fromkeys(TYPES[type(value).__name__] for value in values)
            return {"type": list(kinds), "enum": list(values)}
        case ast.Subscript(value=ast.Name(id=name), slice=entry) if name in LISTS:
            return {"type": ["array"], "items": _type(entry, path)}
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            one, other = _type(left, path), _type(right, path)
            if one and other:
                kinds = dict.fromkeys(one["type"] + other["type"])
                either = {**one, **other, "type": list(kinds)}
                either.pop("enum", None)
                if one.get("enum") and other.get("enum"):
                    either["enum"] = one["enum"] + other["enum"]
                return either
    return {}


@cache
def _constant(path: Path, wanted: str) -> Any:
    where, node = _definition(path, wanted)
    match node:
        case ast.Attribute(value=ast.Name(id=module), attr=attribute):
            other, _ = _imported(where, module)
            return _constant(other, attribute) if other else None
    try:
        return ast.literal_eval(node) if node else None
    except ValueError:
        return None


@cache
def _definition(path: Path, name: str) -> tuple[Path, ast.expr | None]:
    """What ``name`` is set to, and in which file: ``path`` or one that it is imported from."""
    for node in _parsed(path).body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if name in (found := dict(_assigned(target, node.value))):
                    return path, found[name]
    _, module = _imported(path, name)
    return _definition(module, name) if module else (path, None)


def _assigned(target: ast.expr, value: ast.expr | None) -> Iterator[tuple[str, ast.expr | None]]:
    """Names and what each is set to, of ``A = 1`` and of ``A, B = 1, 2``."""
    match target, value:
        case ast.Name(id=name), _:
            yield name, value
        case ast.Tuple(elts=targets), ast.Tuple(elts=values) if len(targets) == len(values):
            for one, other in zip(targets, values, strict=True):
                yield from _assigned(one, other)


@cache
def _imported(path: Path, name: str) -> tuple[Path | None, Path | None]:
    """Files of the library that a file imports as ``name``, and that it imports ``name`` from."""
    for node in _parsed(path).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lipdescent"):
            module = LIBRARY.joinpath(*(node.module or "").split(".")[1:])
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    inside, itself = module / f"{alias.name}.py", module.with_suffix(".py")
                    return inside if inside.exists() else None, itself if itself.exists() else None
    return None, None
