"""Draw the figure of one experiment from its table."""

import matplotlib
import pandas as pd

from lipdescent import names
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])

matplotlib.use("agg")
draw = names.resolve("experiments", job.wildcards.experiment).draw
figure = draw(pd.read_parquet(job.input[0]))
figure.savefig(job.output.pdf)
figure.savefig(job.output.png, dpi=150)
