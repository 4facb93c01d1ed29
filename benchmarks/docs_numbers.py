"""Tables and numbers of docs/ and README.md that results gave, written there from docs/numbers.

    python benchmarks/docs_numbers.py                  take what results/ holds, write the docs
    python benchmarks/docs_numbers.py --write          write the docs, take nothing
    python benchmarks/docs_numbers.py --check          exit 1 if the docs say something else
    python benchmarks/docs_numbers.py --agree default  a fresh run agrees within its seeds

A page names what it wants, ``<!-- numbers: SOURCE KEY -->`` before and ``<!-- end -->`` behind;
what stands between them is replaced. docs/numbers/SOURCE.json holds texts and tables by key, and
the command, the date and the machine they were taken with. ``docs_sources.py`` takes them from a
study's results; where it has no function for a source, the numbers are those recorded.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NUMBERS = ROOT / "docs/numbers"
MARKED = re.compile(r"(<!-- numbers: (\S+) (\S+) -->)(.*?)(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def text_of(source: str, key: str, folder: Path = NUMBERS) -> str:
    """What stands between the markers of a key.

    Raises
    ------
    ValueError
        If there is no such source or key; the message names those that are.
    """
    path = folder / f"{source}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.json")))
        raise ValueError(f"numbers: {source}: no {path.name} in docs/numbers; there are: {known}")
    texts = json.loads(path.read_text())["texts"]
    if key not in texts:
        raise ValueError(f"numbers: {source} has no {key!r}; it has: {', '.join(texts)}")
    found = texts[key]
    if isinstance(found, str):
        return found
    rows = texts[found["of"]]["rows"] if "of" in found else found["rows"]
    rows = [rows[place] for place in found["take"]] if "take" in found else rows
    header = texts[found["of"]]["header"] if "of" in found else found["header"]
    lines = [header, ["---"] * len(header), *rows]
    table = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]
    table[1] = "|" + "---|" * len(header)
    return "\n" + "\n".join(table) + "\n"


def filled(page: str) -> str:
    """A page with what docs/numbers holds between its markers."""
    return MARKED.sub(lambda m: m[1] + text_of(m[2], m[3]) + m[5], page)


def write() -> list[str]:
    """Fill every page; the names of those that changed."""
    changed = []
    for path in pages():
        before = path.read_text()
        after = filled(before)
        if after != before:
            path.write_text(after)
            changed.append(path.name)
    return changed


def store(
    source: str,
    *,
    command: str,
    machine: str,
    repetitions: str,
    texts: dict,
    date: str | None = None,
    **more: object,
) -> None:
    """Write what was found, with how: of today, if no ``date`` is given."""
    date = datetime.date.today().isoformat() if date is None else date
    about = {"command": command, "date": date, "machine": machine, "repetitions": repetitions}
    stored = json.dumps(about | {"texts": texts} | more, indent=1, ensure_ascii=False)
    (NUMBERS / f"{source}.json").write_text(stored + "\n")


def record(source: str, **found: Any) -> None:
    """:func:`store` what a benchmark found, and fill the pages with it."""
    store(source, **found)
    write()


def disagreements(stored: dict, fresh: dict) -> list[str]:
    """Means that two runs of a study give and whose intervals over seeds lie apart."""
    missing = [f"{key}: only one run has it" for key in stored.keys() ^ fresh.keys()]
    apart = [
        f"{key}: {stored[key]} stored, {fresh[key]} now (value, low, high)"
        for key in stored.keys() & fresh.keys()
        if stored[key][1] > fresh[key][2] or fresh[key][1] > stored[key][2]
    ]
    return sorted(missing + apart)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if stale")
    parser.add_argument(
        "--agree", metavar="STUDY", help="compare results/STUDY with what is stored"
    )
    parser.add_argument("--write", action="store_true", help="write the docs, take nothing")
    wanted = parser.parse_args()
    if wanted.check:
        stale = [path.name for path in pages() if filled(path.read_text()) != path.read_text()]
        # An empty text would be an exit status of 1, too.
        sys.exit(
            f"not what docs/numbers holds: {', '.join(stale)}: make docs-numbers" if stale else 0
        )
    import docs_sources

    if wanted.agree:
        fresh = docs_sources.means(ROOT / "results" / wanted.agree)
        stored = json.loads((NUMBERS / f"{wanted.agree}.json").read_text())["means"]
        apart = disagreements(stored, fresh)
        print(f"{wanted.agree}: {len(fresh) - len(apart)} of {len(fresh)} means agree")
        sys.exit("\n".join(apart) or 0)
    if not wanted.write:
        for study, found in docs_sources.take_all(ROOT / "results"):
            store(study, **found)
            print(f"taken: {study}")
    print(f"written: {', '.join(write()) or 'nothing changed'}")


if __name__ == "__main__":
    main()
