"""Where a result comes from: versions, device, revision, and the code that made it."""

from __future__ import annotations

import ast
import hashlib
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path

from lipdescent import names

SCRIPTS = Path(__file__).resolve().parent.parent
# How a job starts changes no result.
NOT_COVERED = ("lipdescent/fork_server.py",)
PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "matplotlib", "safetensors", "snakemake")


def code_digest(*files: str) -> str:
    """sha256 over the contents of the files that :func:`code_files` finds.

    A file's time plays no part: touching it changes nothing.
    """
    digest = hashlib.sha256()
    for path in code_files(*files):
        digest.update(f"{path.relative_to(SCRIPTS)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def code_files(*files: str) -> list[Path]:
    """``files`` (relative to scripts/) and every library module that they come to.

    Followed are imports at a module's top level, and calls of ``names.resolve_function`` and
    ``names.resolve`` whose arguments are written out. A plug-in whose name comes from the
    configuration, and what is imported inside of a function, have to be among ``files``. How a job
    is started (fork_server.py) is left out.
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


def measurement_files(name: str, architecture: str) -> list[str]:
    """Plug-ins behind a measurement of an architecture, beside what measure.py imports itself."""
    network = f"lipdescent/architectures/{architecture}.py"
    kind = names.measurement_kind(name)
    files = [network, f"lipdescent/measurements/{kind}.py"]
    if kind == "bound":
        files.append(f"lipdescent/bounds/{name}.py")
    if any(path.parent.name == "constrained" for path in code_files(network)):
        files.append("lipdescent/constrained/plain.py")
    return files


@cache
def _followed(path: Path) -> list[Path]:
    """Library files that a file comes to, packages' __init__ included."""
    tree = ast.parse(path.read_text())
    modules = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            modules += _looked_up(node)
    files = []
    for module in modules:
        place = SCRIPTS.joinpath(*module.split("."))
        for parent in [place, *place.parents]:
            if parent == SCRIPTS or SCRIPTS not in parent.parents:
                break
            for file in (parent.with_suffix(".py"), parent / "__init__.py"):
                if file.is_file():
                    files.append(file)
    return files


def _looked_up(call: ast.Call) -> list[str]:
    """Module that a call of names.resolve or names.resolve_function imports, if it is constant."""
    function = getattr(call.func, "attr", getattr(call.func, "id", ""))
    constants = [a.value for a in call.args if isinstance(a, ast.Constant)]
    if function == "resolve_function" and constants:
        return [f"lipdescent.{constants[0]}"]
    if function == "resolve" and len(constants) == 2:
        return [f"lipdescent.{constants[0]}.{constants[1]}"]
    return []


def describe(device: str) -> dict[str, object]:
    """Versions of what computes, the machine, and the revision of this checkout."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device,
        "versions": versions,
        "revision": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
    }


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(SCRIPTS), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def caption(script: str) -> str:
    """A plot script's docstring, which is its figure's caption."""
    text = ast.get_docstring(ast.parse((SCRIPTS / script).read_text()))
    if not text:
        raise ValueError(f"{script} has no docstring: it is the figure's caption")
    return text
