"""Load a dataset and keep it as one npz with a checksum."""

from lipdescent.jobs import fork_server

fork_server.hand_over(patience=0)  # most datasets need no PyTorch

from lipdescent.jobs.progress import log_to
from lipdescent.plugins import lookup
from lipdescent.study import job_stamps

log_to(snakemake.log[0])  # noqa: F821
job = snakemake  # noqa: F821

options = dict(job.params.options)
module = options.pop("module", job.wildcards.dataset)
dataset = lookup.resolve("datasets", module).load(**options)
dataset.save(job.output[0], job_stamps.of(job))
print(
    f"{len(dataset.train_labels)} train, {len(dataset.test_labels)} test points of shape "
    f"{dataset.input_shape}, {dataset.num_classes} classes, checksum {dataset.checksum()}"
)
