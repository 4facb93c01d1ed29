"""Load a dataset and keep it as one npz with a checksum."""

from lipdescent import fork_server

fork_server.hand_over(patience=0)  # most datasets need no PyTorch

from lipdescent import names, stamps
from lipdescent.progress import log_to

log_to(snakemake.log[0])  # noqa: F821
job = snakemake  # noqa: F821

dataset = names.resolve("datasets", job.wildcards.dataset).load(**job.params.options)
dataset.save(job.output[0], stamps.of(job))
print(
    f"{len(dataset.train_labels)} train, {len(dataset.test_labels)} test points of shape "
    f"{dataset.input_shape}, {dataset.num_classes} classes, checksum {dataset.checksum()}"
)
