"""What the library logs, as a job's log and terminal have it."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """Lines that are logged meanwhile."""
    library, handler = logging.getLogger("lipdescent"), _Lines()
    level = library.level
    library.setLevel(logging.INFO)
    library.addHandler(handler)
    try:
        yield handler.lines
    finally:
        library.removeHandler(handler)
        library.setLevel(level)
