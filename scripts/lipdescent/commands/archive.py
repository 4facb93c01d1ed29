"""Pack what a study publishes into one file with checksums, or check such a file.

lipdescent archive STUDY            writes results/STUDY.tar.gz   (in a clone: make archive)
lipdescent archive --check FILE     compares every file with its checksum
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from lipdescent.study import archive


def main(arguments: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Do it; ``arguments`` are the command line's if not given."""
    parser = argparse.ArgumentParser(
        prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", default="default")
    parser.add_argument("--check", metavar="FILE", help="an archive to check")
    given = parser.parse_args(arguments)
    try:
        if given.check:
            count = archive.check(given.check)
            print(f"{given.check}: {count} files, all as they were packed")
        else:
            path, count = archive.pack(Path("results", given.study))
            print(f"{path}: {count} files, {path.stat().st_size / 2**20:.1f} MiB")
    except (archive.ArchiveError, OSError) as error:
        raise SystemExit(str(error)) from None
