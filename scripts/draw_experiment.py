"""Draw the figure of one experiment from its table."""

from lipdescent import fork_server

fork_server.hand_over()

import pandas as pd

from lipdescent import figure_style, names
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])

draw = names.resolve("experiments", job.wildcards.experiment).draw
figure_style.save(draw(pd.read_parquet(job.input[0])), job.output.pdf, job.output.png)
