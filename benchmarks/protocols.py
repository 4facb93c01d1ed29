"""docs/protocols.md: how the papers' studies deviate from the papers, from the overlays' headers.

python benchmarks/protocols.py          write the page
python benchmarks/protocols.py --check  exit 1 if it says something else
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDIES, PAGE = ROOT / "config/studies", ROOT / "docs/protocols.md"
PAPERS = ("ks", "gamba", "nakkiran", "smith")
BEGIN = "Deviations from the paper:"
HEAD = """# The papers' protocols, and where the studies deviate from them

The studies of Khromov & Singh (`ks_*`), Gamba et al. (`gamba_*`), Nakkiran et al. (`nakkiran_*`)
and Smith et al. (`smith_*`) follow the papers, and their public code where it is at hand, but for
what this table lists. `make protocols` writes it from the headers of the files in `config/studies`.

| name | deviates from the paper |
|---|---|
"""


def papers() -> list[Path]:
    """The overlays of the papers' studies."""
    return sorted(path for paper in PAPERS for path in STUDIES.glob(f"{paper}_*.yaml"))


def deviations(overlay: Path) -> list[str]:
    """What the header of an overlay lists, one entry "# - ..." each, continued by "#   ...".

    Raises
    ------
    ValueError
        If there is no list, or a line of it is something else.
    """
    found: list[str] = []
    for line in _header(overlay):
        kind, text = line[:4], line[4:].strip()
        if kind == "# - ":
            found.append(text)
        elif kind == "#   " and found:
            found[-1] += f" {text}"
        else:
            raise ValueError(f'{overlay}: {line!r}: allowed are "# - ..." and "#   ..."')
    if not found:
        raise ValueError(f'{overlay}: no list "# {BEGIN}" in its header')
    return found


def _header(overlay: Path) -> Iterator[str]:
    """The header's lines behind the one that begins the list."""
    begun = False
    for line in overlay.read_text().splitlines():
        if not line.startswith("#"):
            return
        if begun:
            yield line
        begun = begun or line == f"# {BEGIN}"


def page() -> str:
    """The whole page."""
    lines = [f"| `{path.stem}` | {'<br>'.join(deviations(path))} |\n" for path in papers()]
    return HEAD + "".join(lines)


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(PAGE.read_text() != page())
    PAGE.write_text(page())
