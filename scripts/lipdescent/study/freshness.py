"""Before any job: which files of a study are not what the configuration and the code ask for.

Every file's stamp is compared with its recipe, and with the stamps of the files it was made from.
So results that were copied without Snakemake's own records, swapped, renamed or made by an earlier
version are made anew, and files that were only touched are not. No torch here.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from lipdescent.storage import stamps
from lipdescent.storage.stamp_differences import differences
from lipdescent.study.recipe import Recipe

# Files beside one that carries the stamp.
WITHOUT_STAMP = (".csv",)


class Freshness:
    """What is stale, found one file at a time; each reason is told once per rule."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.say = say or (lambda line: print(line, file=sys.stderr))
        self._stale: dict[str, list[str]] = {}
        self._stamps: dict[str, stamps.Stamp | None] = {}
        self._told: set[tuple[str, str]] = set()

    def stale(self, recipe: Recipe) -> list[str]:
        """Outputs of a recipe that have to be made anew; those that are not there do not count."""
        for one in recipe.inputs:
            self.stale(one)
        if recipe.path not in self._stale:
            there = [path for path in recipe.outputs if os.path.exists(path)]
            why = self._why(recipe, there)
            self._stale[recipe.path] = list(recipe.outputs) if why else []
            if why:
                self._tell(recipe, there[0], why)
            elif there:
                self._settle(recipe, there)
        return self._stale[recipe.path]

    def _why(self, recipe: Recipe, there: list[str]) -> list[str]:
        for path in there:
            if Path(path).suffix in WITHOUT_STAMP:
                if not stamps.is_companion(path, self._stamp(recipe.path)):
                    return [f"{Path(path).name} is not what was written with {recipe.path}"]
                continue
            stamp = self._stamp(path)
            if stamp is None or stamp["recipe"] != recipe.recipe:
                return differences(stamp, recipe.stamp())
            for one in recipe.inputs:
                input_stamp = self._stamp(one.path)
                if input_stamp is None or self._stale[one.path]:
                    continue
                name = stamps.below(one.path)
                made_from = stamp["inputs"].get(name, {}).get("content")
                if made_from != input_stamp["content"]:
                    return [
                        f"made from another {name}: its contents were {made_from}, "
                        f"now they are {input_stamp['content']}"
                    ]
        return []

    def _stamp(self, path: str) -> stamps.Stamp | None:
        if path not in self._stamps:
            self._stamps[path] = stamps.read(path) if os.path.exists(path) else None
        return self._stamps[path]

    def _tell(self, recipe: Recipe, path: str, why: list[str]) -> None:
        """Not where a stale input explains it: that has been told."""
        follows = any(self._stale[one.path] for one in recipe.inputs)
        for line in why:
            if (follows and line.startswith("its ")) or (recipe.rule, line) in self._told:
                continue
            self._told.add((recipe.rule, line))
            self.say(f"{recipe.rule}: {line}. To make anew: {path}, and all alike")

    def _settle(self, recipe: Recipe, there: list[str]) -> None:
        """A file that was made from what is there is not older than that, whatever was touched."""
        if any(self._stale[one.path] for one in recipe.inputs):
            return
        read = [one.path for one in recipe.inputs if self._stamp(one.path)] + recipe.files
        times = [os.stat(path).st_mtime_ns for path in read]
        newest = max(times, default=0)
        # For Snakemake the benchmark is an output like the others.
        for path in (*there, recipe.benchmark):
            try:
                found = os.stat(path)
                if found.st_mtime_ns < newest:
                    os.utime(path, ns=(found.st_atime_ns, newest))
            except OSError:  # not there or read-only: Snakemake compares times and checksums itself
                continue
