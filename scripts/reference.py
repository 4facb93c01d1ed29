"""Pages of the API reference, one per room: python scripts/reference.py FOLDER.

Each holds the room's public modules; mkdocstrings fills them in from the docstrings. `make docs`
calls this.
"""

import sys
from pathlib import Path

import rooms

HEAD = "# Reference\n\n| room | what |\n|---|---|\n"


def pages() -> dict[str, str]:
    """File name -> Markdown, with an index of the rooms, highest first."""
    found, index = {}, HEAD
    for room, what in reversed(rooms.described().items()):
        own = [name for name in rooms.modules() if rooms.room(name) == room and public(name)]
        found[f"{room}.md"] = "\n\n".join([f"# {room}", what, *(f"::: {m}" for m in own), ""])
        index += f"| [{room}]({room}.md) | {what} |\n"
    return {"index.md": index, **found}


def public(module: str) -> bool:
    """A contract is for those who write a plug-in: it is shown too."""
    last = module.split(".")[-1]
    return last[0] != "_" or last == "_contract"


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text)
