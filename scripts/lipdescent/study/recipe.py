"""How one file of a study is to be made: its job's options, code and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lipdescent.storage import stamps


@dataclass(frozen=True, eq=False)
class Recipe:
    """One job: what it is asked for, the code behind it and the recipes of its inputs.

    Attributes
    ----------
    place : of the job's log and benchmark below results/<study>/logs/ and benchmarks/.
    outputs : paths from the folder that holds results/.
    code : file below scripts/ -> digest.
    """

    rule: str
    place: str
    outputs: tuple[str, ...]
    asked: dict[str, Any]
    code: dict[str, str]
    inputs: tuple[Recipe, ...] = ()

    @property
    def path(self) -> str:
        """The output that other jobs read."""
        return self.outputs[0]

    @property
    def files(self) -> list[str]:
        """Files of the user's that the job reads; their digests are asked for."""
        return list(self.asked.get("files", ()))

    @property
    def benchmark(self) -> str:
        """Snakemake's record of the job's time."""
        results, study, *_ = self.path.split("/")
        return f"{results}/{study}/benchmarks/{self.place}.tsv"

    @cached_property
    def recipe(self) -> str:
        """See :func:`stamps.recipe`."""
        inputs = {stamps.below(one.path): one.recipe for one in self.inputs}
        return stamps.recipe(self.rule, self.asked, self.code, inputs)

    def stamp(self) -> stamps.Stamp:
        """What the output's stamp should be, less its content."""
        described = len(self.inputs) <= stamps.DESCRIBED
        inputs = {
            stamps.below(one.path): stamps.short(one.stamp(), described=described)
            for one in self.inputs
        }
        return {
            "rule": self.rule,
            "asked": stamps.plain(self.asked),
            "code": self.code,
            "inputs": inputs,
            "recipe": self.recipe,
        }
