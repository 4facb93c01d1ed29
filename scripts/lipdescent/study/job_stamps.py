"""The stamp of what a job makes, and the refusal to make it from other inputs."""

from collections.abc import Mapping
from typing import Any

from lipdescent.storage.stamp_differences import differences, few
from lipdescent.storage.stamps import (
    DESCRIBED,
    NO_RECORD,
    NOT_ASKED,
    SCRIPTS,
    START_AGAIN,
    OtherRecipe,
    Stamp,
    below,
    code_digest,
    digest,
    plain,
    read,
    recipe,
    short,
)


def of(job: Any, **by: Any) -> Stamp | None:
    """Stamp of what a Snakemake job makes; None for a stand-in without a rule.

    Parameters
    ----------
    by : what is worth knowing and asked by nobody, such as the device.

    Raises
    ------
    OtherRecipe
        If an input is not what the job was to be given, or tells nothing of its making, or if a
        file of code was edited since Snakemake read it.
    """
    if getattr(job, "rule", None) is None:
        return None
    inputs: dict[str, Stamp] = {}
    own = getattr(job.params, "files", ())  # the user's, whose digests are asked for
    for path in (path for path in map(str, job.input) if path not in own):
        found = read(path)
        if found is None:
            raise OtherRecipe(f"{path} {NO_RECORD}; {START_AGAIN}")
        inputs[below(path)] = found
    edited = [name for name, told in job.params.code.items() if code_digest(SCRIPTS / name) != told]
    if edited:
        raise OtherRecipe(
            f"{job.output[0]}: {few(f'scripts/{name}' for name in edited)} changed since this run "
            f"was started, so it is not known which version it would be made with. "
            f"{START_AGAIN.capitalize()}"
        )
    asked = plain({k: v for k, v in job.params.items() if k not in NOT_ASKED})
    code, recipes = job.params.code, {name: stamp["recipe"] for name, stamp in inputs.items()}
    made = recipe(job.rule, asked, code, recipes)
    if made != job.params.recipe:
        _refuse(job, inputs)
    shortened = {name: short(s, described=len(inputs) <= DESCRIBED) for name, s in inputs.items()}
    return {
        "rule": job.rule,
        "asked": asked,
        "code": dict(code),
        "inputs": shortened,
        "recipe": made,
        "content": digest(made.encode(), *(s["content"].encode() for s in inputs.values())),
        "by": {"threads": job.threads, **by},
    }


def _refuse(job: Any, inputs: Mapping[str, Stamp]) -> None:
    """Raise, naming the first input that differs from what the configuration asks for."""
    # Imported here: no job depends on this but one that fails.
    from lipdescent.study.recipes import Recipes

    wanted = Recipes(job.config).recipe(job.rule, **dict(job.wildcards.items()))
    for one in wanted.inputs:
        stamp = inputs.get(below(one.path))
        if stamp is not None and stamp["recipe"] != one.recipe:
            why = differences(stamp, one.stamp())
            raise OtherRecipe(f"{one.path}: {'; '.join(why)}. {START_AGAIN.capitalize()}")
    raise OtherRecipe(
        f"{job.output[0]}: inputs, options or code changed while the jobs ran. "
        f"{START_AGAIN.capitalize()}"
    )
