"""The code behind a result: which files it depends on, and in what version."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any

from lipdescent.plugins import lookup
from lipdescent.storage import stamps

SCRIPTS = Path(__file__).resolve().parents[2]
# How a job starts, how many processes share it, and what a file says of its making, change no
# result.
NOT_COVERED = (
    *(f"lipdescent/jobs/{name}.py" for name in ("fork_server", "forking", "lifeline", "workers")),
    "lipdescent/storage/stamps.py",
)
# Statements at a module's top level, those in parentheses over several lines.
IMPORT = re.compile(r"^(?:from|import)\b(?:[^\n(]*\([^)]*\)|[^\n]*)", re.MULTILINE)
# In the file of an architecture whose networks may have to be exported.
OWN_FORWARD = re.compile(r"\bdef forward\b|\btorchvision\b|_norm\b|\bparametri|\bhook")
LOOKED_UP = re.compile(r"\bresolve\(\s*[\"']")


def code_versions(*files: str) -> dict[str, str]:
    """File, below scripts/, -> digest of its contents, of all that :func:`code_files` finds.

    A file's time plays no part: touching it changes nothing.
    """
    return {str(path.relative_to(SCRIPTS)): _digest(path) for path in code_files(*files)}


def code_files(*files: str) -> list[Path]:
    """``files`` (relative to scripts/) and every library module that they come to.

    Followed are imports at a module's top level, and calls of ``names.resolve`` whose arguments are
    written out. A plug-in whose name comes from the configuration, and what is imported inside of a
    function, have to be among ``files``. What changes no result is left out (:data:`NOT_COVERED`).
    """
    ignored = {SCRIPTS / file for file in NOT_COVERED}
    seen: set[Path] = set()
    todo = [SCRIPTS / file for file in files]
    while todo:
        path = todo.pop()
        if path not in seen | ignored:
            seen.add(path)
            todo += _followed(path)
    return sorted(seen)


def training_files(architecture: str, training: dict[str, Any], noise_maker: str) -> list[str]:
    """Plug-ins behind a training, beside what train.py imports itself."""
    return [
        f"lipdescent/architectures/{architecture}.py",
        f"lipdescent/training/losses/{training['loss']}.py",
        f"lipdescent/training/schedules/{training['schedule']}.py",
        f"lipdescent/training/label_noise/{noise_maker}.py",
    ]


def measurement_files(
    name: str, architecture: str, loss: str, noise_maker: str, *, points: str = ""
) -> list[str]:
    """Plug-ins behind a measurement of an architecture, beside what measure.py imports itself.

    ``name`` is ``metrics``, ``certificates`` or a bound's file, ``points`` the set it is taken on.
    """
    network = f"lipdescent/architectures/{architecture}.py"
    kind = lookup.measurement_kind(name)
    files = [network, f"lipdescent/measuring/kinds/{kind}.py"]
    if kind == "bound":
        files.append(f"lipdescent/bounds/{name}.py")
    if points:
        files.append(f"lipdescent/points/{points}.py")
    if any(path.parent.name == "constrained" for path in code_files(network)):
        files.append("lipdescent/structure/materialise.py")
    if kind == "bound" and OWN_FORWARD.search((SCRIPTS / network).read_text(encoding="utf-8")):
        files.append("lipdescent/structure/exported.py")
    imported = code_files(*files)
    if SCRIPTS / "lipdescent/training/options.py" in imported:
        files.append(f"lipdescent/training/losses/{loss}.py")
    if SCRIPTS / "lipdescent/training/replicas.py" in imported:
        files.append(f"lipdescent/training/label_noise/{noise_maker}.py")
    return files


@cache
def _digest(path: Path) -> str:
    return stamps.code_digest(path)


@cache
def _followed(path: Path) -> list[Path]:
    """Library files that a file comes to, packages' __init__ included."""
    text, modules = path.read_text(encoding="utf-8"), []
    for statement in IMPORT.findall(text):
        modules += _imported(statement, path)
    if LOOKED_UP.search(text):  # parsing whole files would take most of a job's start
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                modules += _looked_up(node)
    files = [init for folder in path.parents if (init := folder / "__init__.py").is_file()]
    for module in modules:
        files += _files(module)
    return files


@cache
def _files(module: str) -> list[Path]:
    """Of a module of the library and the packages around it; none of others."""
    files, place = [], SCRIPTS.joinpath(*module.split("."))
    for parent in [place, *place.parents]:
        if parent == SCRIPTS or SCRIPTS not in parent.parents:
            break
        for file in (parent.with_suffix(".py"), parent / "__init__.py"):
            if file.is_file():
                files.append(file)
    return files


def _imported(statement: str, path: Path) -> list[str]:
    """Modules that an import statement of the file ``path`` may come to.

    None for a line of text that begins alike.
    """
    try:
        node = ast.parse(statement).body[0]
    except SyntaxError:
        return []
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            module = _absolute(node, path)
            return [module, *(f"{module}.{alias.name}".strip(".") for alias in node.names)]
    return []


def _absolute(node: ast.ImportFrom, path: Path) -> str:
    """The module that is imported from; one dot is the folder of ``path``, two that above it."""
    if not node.level:
        return node.module or ""
    folder = path.parents[node.level - 1]
    inside = folder.relative_to(SCRIPTS).parts if folder.is_relative_to(SCRIPTS) else ()
    return ".".join([*inside, *filter(None, [node.module])])


def _looked_up(call: ast.Call) -> list[str]:
    """Module that a call of names.resolve imports, if its arguments are written out."""
    function = getattr(call.func, "attr", getattr(call.func, "id", ""))
    written = [a.value for a in call.args if isinstance(a, ast.Constant)]
    constants = [value for value in written if isinstance(value, str)]
    if function == "resolve" and len(constants) == 2:
        return [f"{lookup.module_of(constants[0])}.{constants[1]}"]
    return []


def caption(script: str) -> str:
    """A plot script's docstring, which is its figure's caption."""
    text = ast.get_docstring(ast.parse((SCRIPTS / script).read_text(encoding="utf-8")))
    if not text:
        raise ValueError(f"{script} has no docstring: it is the figure's caption")
    return text
