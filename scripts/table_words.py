"""Write the tables of docs/table.md, from lipdescent/storage/table_words.py (make table-words)."""

import sys
from pathlib import Path

from lipdescent.storage.table_words import filled

if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
