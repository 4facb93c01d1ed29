"""Draw one figure: of an architecture, of several side by side, or of an experiment."""

from lipdescent.jobs import fork_server

fork_server.hand_over()

from dataclasses import replace

from lipdescent.analysis import groups
from lipdescent.figures import _style as style
from lipdescent.jobs.progress import log_to
from lipdescent.plugins import lookup
from lipdescent.storage import atomic, stamped_parquet
from lipdescent.study import job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])
of = job.wildcards


def load(architecture: str, unit: str) -> groups.Group:
    """The group of an architecture, with what its width counts."""
    group = groups.load_group(job.input.table, dataset=of.dataset, architecture=architecture)
    return replace(group, width_unit=unit)


with style.printed(**job.params.figure):
    if hasattr(of, "experiment"):
        with atomic.sound(job.input[0]):
            frame = stamped_parquet.read(job.input[0]).to_pandas()
        figure = lookup.resolve("experiments", of.experiment).draw(frame)
    elif hasattr(of, "comparison"):
        figure = lookup.resolve("comparisons", job.params.module).draw(
            {name: load(name, unit) for name, unit in job.params.width_units.items()},
            statistics=job.params.statistics,
            losses=job.params.losses,
            **job.params.options,
        )
    else:
        figure = lookup.resolve("figures", job.params.module).draw(
            load(of.architecture, job.params.width_unit),
            statistics=job.params.statistics,
            loss=job.params.loss,
            **job.params.options,
        )
    style.save(figure, *job.output, made=job_stamps.of(job))
