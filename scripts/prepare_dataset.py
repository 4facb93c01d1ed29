"""Load a dataset and keep it as one npz with a checksum."""

from lipdescent import fork_server

fork_server.hand_over(patience=0)  # most datasets need no PyTorch

from pathlib import Path

from lipdescent import names
from lipdescent.progress import log_to

log_to(snakemake.log[0])  # noqa: F821
job = snakemake  # noqa: F821

dataset = names.resolve("datasets", job.wildcards.dataset).load(**job.params.options)
Path(job.output[0]).parent.mkdir(parents=True, exist_ok=True)
dataset.save(job.output[0])
print(
    f"{len(dataset.train_labels)} train, {len(dataset.test_labels)} test points of shape "
    f"{dataset.input_shape}, {dataset.num_classes} classes, checksum {dataset.checksum()}"
)
