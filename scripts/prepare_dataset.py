"""Load a dataset and keep it as one npz with a checksum."""

from lipdescent.jobs import fork_server

fork_server.hand_over(patience=0.5)  # most datasets need no PyTorch

from lipdescent.jobs.progress import log_to
from lipdescent.plugins import lookup
from lipdescent.study import job_stamps

job = snakemake  # type: ignore[name-defined]  # noqa: F821  Snakemake puts it there
log_to(job.log[0])

options = dict(job.params.options)
module = options.pop("module", job.wildcards.dataset)
dataset = lookup.resolve("datasets", module).load(**options)
dataset.save(job.output[0], job_stamps.of(job))
print(
    f"{len(dataset.train_labels)} train, {len(dataset.test_labels)} test points of shape "
    f"{dataset.input_shape}, {dataset.num_classes} classes, checksum {dataset.checksum()}"
)
