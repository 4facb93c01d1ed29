"""docs/reproduction.md: what the papers say, what was measured, and what the bracket proves.

    python benchmarks/reproduction.py          take what results/ holds, write numbers and pages
    python benchmarks/reproduction.py --check  exit 1 if the tables are not those of the records

``reproduction_statements.py`` lists the statements; what a study's results give for one is recorded
in docs/numbers/reproduction.json, seed by seed, with command, date and machine, and stays there
when the results are gone. Tables are made from the records alone, verdicts by :func:`verdict`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
from reproduction_words import Measured, Statement

from lipdescent.arithmetic import decimals

ROOT = Path(__file__).resolve().parents[1]
PAGE_NUMBERS = ROOT / "docs/numbers/reproduction.json"
HEADER = ["experiment", "statement", "paper", "measured", "certified bracket", "verdict", "study"]


def verdict(statement: Statement, found: Measured | None) -> str:
    """What the page says of a statement: the page explains the words.

    A number agrees where it lies within the seeds' range, each end widened by ``tolerance`` of its
    size; a range, where it meets that; a sentence without a number, where it holds of the data.
    What is said of the constant is proved where its bracket lies inside, excluded where they are
    apart.
    """
    if found is None:
        return "open"
    if found.holds is not None:
        names = ("proved", "not decided") if statement.of_constant else ("agrees", "differs")
        return names[not found.holds]
    if statement.paper is None:
        return "no number"
    ends = statement.paper if isinstance(statement.paper, tuple) else (statement.paper,) * 2
    if statement.of_constant:
        if found.bracket is None:
            return "not decided"
        low, high = found.bracket
        if ends[0] <= low and high <= ends[1]:
            return "proved"
        return "excluded" if high < ends[0] or ends[1] < low else "not decided"
    low, high = min(found.values), max(found.values)
    low, high = (low - statement.tolerance * abs(low), high + statement.tolerance * abs(high))
    return "agrees" if low <= ends[1] and ends[0] <= high else "differs"


def recorded(record: dict[str, Any] | None) -> Measured | None:
    """What a record holds, if there is one."""
    return None if record is None else Measured(*(record[name] for name in Measured._fields))


def row(statement: Statement, record: dict[str, Any] | None) -> list[str]:
    """A statement's cells."""
    found = recorded(record)
    said = verdict(statement, found)
    said = f"**{said}**" if said in ("proved", "excluded", "differs") else said
    if found is not None and found.note:
        said += f": {found.note}"
    study = record["study"] if record is not None else statement.studies[0]
    short = " (short)" if study.endswith("_small") else ""
    paper = "" if statement.paper is None else _numbers(statement.paper)
    paper = f"{paper} [{statement.mark}]".strip() if statement.mark else paper
    measured = _measured(found.values) if found is not None else ""
    between = _bracket(found.bracket) if found is not None and found.bracket else ""
    cells = [statement.experiment, statement.sentence, paper, measured, between, said]
    return [*cells, f"`{study}`{short}"]


def _numbers(values: float | Sequence[float]) -> str:
    ends = (values,) if isinstance(values, (int, float)) else values
    return " to ".join(f"{value:.6g}" for value in ends)


def _measured(values: list[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.6g}"
    mean = f"{sum(values) / len(values):.4g}"
    return f"{mean} ({min(values):.4g} to {max(values):.4g}; {len(values)} seeds)"


def _bracket(ends: tuple[float, float]) -> str:
    return f"[{decimals.at_least(ends[0], '.5g')}, {decimals.at_most(ends[1], '.5g')}]"


def tables(records: dict[str, Any]) -> dict[str, Any]:
    """Every text of the page."""
    import reproduction_statements as listed

    rows = {s.key: row(s, records.get(s.key)) for s in listed.STATEMENTS}
    texts: dict[str, Any] = {}
    for paper, wanted in listed.PAPERS.items():
        texts[paper] = {"header": HEADER, "rows": [rows[s.key] for s in wanted]}
    counts = Counter(verdict(s, recorded(records.get(s.key))) for s in listed.STATEMENTS)
    told = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    texts["summary"] = f"{len(rows)} statements: {told}"
    run = {record["study"] for record in records.values()}
    cells = [
        [name, what, _listed(studies), "; ".join(filter(None, [lacks, _not_run(studies, run)]))]
        for name, (what, studies, lacks) in listed.COVERAGE.items()
    ]
    header = ["experiment", "what varies", "study", "what it lacks"]
    return texts | {"coverage": {"header": header, "rows": cells}}


def _listed(studies: Sequence[str]) -> str:
    return ", ".join(f"`{study}`" for study in studies)


def _not_run(studies: Sequence[str], run: set[str]) -> str:
    """Studies that no record is of, so that the table cannot say of one that it was run."""
    missing = [study for study in studies if study not in run]
    return f"a run of {_listed(missing)}" if missing else ""


def take(results: Path, records: dict[str, Any]) -> dict[str, Any]:
    """The records with what ``results`` and docs/numbers hold, of each statement's first study."""
    import docs_sources
    import reproduction_statements as listed

    taken = dict(records)
    for statement in listed.STATEMENTS:
        for study in statement.studies:
            # A recorded number of the full study is not replaced by a short one's.
            if (found := _about(results, study, statement.from_numbers)) is not None:
                folder, about = found
                try:
                    measured = statement.take(folder)._asdict()
                except listed.measures.Missing as missing:
                    print(f"{statement.key}: {missing}")
                    break
                about = {"command": docs_sources.command(study)} | about
                taken[statement.key] = {"study": study} | measured | about
                break
            if records.get(statement.key, {}).get("study") == study:
                break
    return taken


def _about(results: Path, study: str, from_numbers: bool) -> tuple[Path, dict[str, str]] | None:
    """Where a study's numbers are, with their date and machine; None where they are not."""
    from machine import machine

    if from_numbers:
        path = ROOT / f"docs/numbers/{study}.json"
        told = json.loads(path.read_text())
        return path, {key: told[key] for key in ("date", "machine")}
    path = results / study / "provenance.json"
    if not path.is_file():
        return None
    told = json.loads(path.read_text())
    return path.parent, {"date": told["finished"][:10], "machine": machine()}


def stored() -> dict[str, Any]:
    """The file of numbers, empty where there is none yet."""
    return json.loads(PAGE_NUMBERS.read_text()) if PAGE_NUMBERS.is_file() else {"records": {}}


def main() -> None:
    whole = stored()
    if "--check" in sys.argv:
        sys.exit(whole["texts"] != tables(whole["records"]))
    records = take(ROOT / "results", whole["records"])
    import docs_numbers

    texts = tables(records)
    docs_numbers.store(
        "reproduction",
        command="make reproduction; of each record: its own",
        date=max((r["date"] for r in records.values()), default=None),
        machine=" | ".join(sorted({r["machine"] for r in records.values()})),
        repetitions="one run",
        texts=texts,
        records=records,
    )
    print(texts["summary"])
    print(f"written: {', '.join(docs_numbers.write()) or 'nothing changed'}")


if __name__ == "__main__":
    main()
