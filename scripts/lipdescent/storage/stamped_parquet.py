"""Parquet files with a stamp and with checksums of their pages."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lipdescent.storage import atomic, stamps


def write(path: str | Path, table: pa.Table, made: stamps.Stamp | None = None) -> None:
    """Write any table; its stamp's content is a digest of the rows.

    The file appears only when complete. A bit that flips in it later is noticed by
    :func:`read`.
    """
    if made is not None:
        sink = pa.BufferOutputStream()
        bare = table.replace_schema_metadata().combine_chunks()
        with pa.ipc.new_stream(sink, bare.schema) as stream:
            stream.write_table(bare)
        stamp = stamps.with_content(made, stamps.digest(memoryview(sink.getvalue())))
        kept = {stamps.KEY.encode(): stamps.dumps(stamp).encode()}
        table = table.replace_schema_metadata((table.schema.metadata or {}) | kept)
    with atomic.complete(path) as partial:
        pq.write_table(table, partial, compression="zstd", write_page_checksum=True)


def read(path: str | Path) -> pa.Table:
    """The whole table.

    Raises
    ------
    ValueError
        If the file is truncated, altered or not Parquet; the message names it.
    """
    try:
        return pq.read_table(path, page_checksum_verification=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: truncated, altered or not a Parquet file ({error})") from error
