"""Keeping other tools off our terminal: what they log is kept, what they print is dropped."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


class Quiet(logging.Handler):
    """Takes a package's log away from the terminal and keeps its warnings, from creation to :meth:`release`.

    It stands as a filter on the package's own logger, which holds whatever handlers the package adds later,
    and as the only handler for the loggers below it.
    """

    def __init__(self, package: str) -> None:
        super().__init__(logging.WARNING)
        self.warnings: list[str] = []
        self._logger = logging.getLogger(package)
        self._before = (self._logger.handlers, self._logger.propagate, self._logger.level)
        self._logger.handlers, self._logger.propagate = [self], False
        self._logger.addFilter(self._keep)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record of a logger below."""
        self._keep(record)

    def release(self) -> None:
        """Give the log back. A second call does nothing."""
        self._logger.removeFilter(self._keep)
        if self in self._logger.handlers:
            self._logger.handlers, self._logger.propagate, level = self._before
            self._logger.setLevel(level)

    def _keep(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            text = " ".join(record.getMessage().split())
            if text not in self.warnings:
                self.warnings.append(text)
        return False


@contextlib.contextmanager
def no_print() -> Iterator[None]:
    """Drop what is printed: some tools do so when they are imported, and our stdout may be JSON."""
    with contextlib.redirect_stdout(None):
        yield
