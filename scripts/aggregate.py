"""Gather all measurements into the tidy table; a lower bound above an upper one ends the run."""

from lipdescent import files, table
from lipdescent.progress import log_to

job = snakemake  # noqa: F821
log_to(job.log[0])

tables = []
for path in job.input:
    with files.sound(path):
        tables.append(table.read(path))
whole = table.concatenate(tables)
table.check_order(whole)
table.write_csv(job.output.csv, whole)
table.write(job.output.parquet, whole)
print(f"{whole.num_rows} rows from {len(job.input)} files")
