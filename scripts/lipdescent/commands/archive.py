"""Pack what a study publishes into one file with checksums, or check such a file.

python scripts/archive.py STUDY               writes results/STUDY.tar.gz   (make archive)
python scripts/archive.py --check FILE        compares every file with its checksum
"""

import argparse
from pathlib import Path

from lipdescent.study import archive

if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", nargs="?", default="default")
    parser.add_argument("--check", metavar="FILE", help="an archive to check")
    arguments = parser.parse_args()
    try:
        if arguments.check:
            count = archive.check(arguments.check)
            print(f"{arguments.check}: {count} files, all as they were packed")
        else:
            path, count = archive.pack(Path("results", arguments.study))
            print(f"{path}: {count} files, {path.stat().st_size / 2**20:.1f} MiB")
    except (archive.ArchiveError, OSError) as error:
        raise SystemExit(str(error)) from None
