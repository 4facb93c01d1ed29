"""A terminal that may go away, or be read by nobody, without stopping what prints to it.

What cannot be printed is dropped. Log files have everything.
"""

import contextlib
import logging
import os
import select
import sys
import time
from collections.abc import Iterable
from typing import Any, TextIO, cast

# A pipe that is ready takes so many bytes without waiting (POSIX's least PIPE_BUF).
AT_ONCE = 512
# Where it is set, the terminal has a view that is redrawn (console.py), and jobs leave it alone.
LIVE = "LIPDESCENT_LIVE"


class Terminal:
    """Stands for a text stream; what is written reaches the stream's file or is dropped.

    Parameters
    ----------
    stream : what to write to; None where the process was started without one.
    patience : seconds to wait for a reader that is slow, such as a pager. Whoever lets one text
        wait in vain is not waited for again until it has read.
    """

    def __init__(self, stream: TextIO | None, *, patience: float = 0.2) -> None:
        self.stream, self.patience = stream, patience
        self._waits = patience
        self._file: int | None = None
        with contextlib.suppress(AttributeError, OSError, ValueError):
            if stream is not None:
                stream.flush()
                self._file = stream.fileno()

    def write(self, text: str) -> int:
        """As a stream's; never raises and never waits for longer than ``patience``."""
        try:
            if self._file is not None:
                self._send(self._file, text.encode(self.encoding, "backslashreplace"))
            elif self.stream is not None:
                self.stream.write(text)
        except (OSError, ValueError):
            self._lose()
        return len(text)

    def _send(self, file: int, data: bytes) -> None:
        until = time.monotonic() + self._waits
        while data:
            left = max(0.0, until - time.monotonic())
            if not select.select([], [file], [], left)[1]:
                self._waits = 0.0
                return
            data = data[os.write(file, data[:AT_ONCE]) :]
        self._waits = self.patience

    def _lose(self) -> None:
        """The other end is gone for good; processes started from here write to nowhere too."""
        if self._file is not None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._file)
            os.close(nowhere)
        else:
            self.stream = None

    def flush(self) -> None:
        """Nothing is kept back."""

    @property
    def encoding(self) -> str:
        """The stream's."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["stream"], name)


def outlive(handlers: Iterable[logging.Handler], *, patience: float = 5.0) -> None:
    """From now on this process, and logging to its terminal, go on when the terminal does not."""
    wrapped = {}
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        wrapped[id(stream)] = Terminal(stream, patience=patience)
        setattr(sys, name, wrapped[id(stream)])
    for handler in handlers:
        stream = getattr(handler, "stream", None)
        if stream is not None and id(stream) in wrapped:
            cast(Any, handler).stream = wrapped[id(stream)]
