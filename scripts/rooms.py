"""The rooms of the library and what each imports, drawn: python scripts/rooms.py docs/rooms.md.

What is read is the code's imports, at the top of files and inside of functions; look-ups of
plug-ins by name are no imports.
"""

import ast
import functools
import sys
from pathlib import Path

LIBRARY = Path(__file__).parent / "lipdescent"
HEAD = """# Rooms

Drawn by `make rooms` from the imports; `scripts/lipdescent/ROOMS` has the order, lowest first. An
arrow means "imports from"; where A imports from B and B from C, an arrow from A to C is left out.

```mermaid
flowchart BT
"""


@functools.cache
def described() -> dict[str, str]:
    """Room -> what it is, lowest first."""
    lines = (LIBRARY / "ROOMS").read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module."""
    found = {}
    for path in sorted(LIBRARY.rglob("*.py")):
        parts = path.relative_to(LIBRARY.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """Module -> the library's modules that it imports."""
    known = modules()
    return {name: _imported(name, path, known) for name, path in known.items()}


def _imported(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    found = set()
    for node in _import_statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in known}
        else:
            if node.level:
                raise ValueError(f"{path}: relative imports are not followed by the code digest")
            for alias in node.names:
                module = node.module or ""
                below = f"{module}.{alias.name}"
                found |= {below if below in known else module} & known.keys()
    return found - {name}


@functools.cache
def _import_statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """Those of a file, also inside of functions; parsed once."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]


def room(module: str) -> str:
    """The innermost room that a module lies in.

    Raises
    ------
    ValueError
        If it lies in none.
    """
    rooms, parts = described(), module.removeprefix("lipdescent.").split(".")
    if module == "lipdescent":
        return module
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in rooms:
            return ".".join(parts[:end])
    raise ValueError(f"{module} lies in no room of {LIBRARY.name}/ROOMS")


def arrows() -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(room, room that it imports from) -> the modules; what is had by way of lipdescent is
    none."""
    found: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for module, others in imports().items():
        for other in sorted(others):
            pair = room(module), room(other)
            if pair[0] != pair[1] and other != "lipdescent":
                found.setdefault(pair, []).append((module, other))
    return found


def drawing() -> str:
    """The page: a graph without the arrows that others imply, and a line per room."""
    rooms, pairs = described(), set(arrows())
    below: dict[str, set[str]] = {}
    for name in rooms:  # lowest first: what is below is complete
        direct = {b for a, b in pairs if a == name}
        below[name] = direct.union(*(below.get(other, ()) for other in direct))
    lines = [f'    {_id(name)}["{name}"]' for name in rooms]
    for a, b in sorted(pairs):
        if not any(b in below[other] for x, other in pairs if x == a and other != b):
            lines.append(f"    {_id(a)} --> {_id(b)}")
    table = [f"| `{name}` | {what} |" for name, what in reversed(rooms.items())]
    page = [HEAD + "\n".join(lines), "```", "", "| room | what |", "|---|---|", *table]
    return "\n".join(page) + "\n"


def _id(name: str) -> str:
    return name.replace(".", "_")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing())
