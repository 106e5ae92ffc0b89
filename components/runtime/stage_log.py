"""What stages log: the log file of a campaign or of a command, with one line a minute while a stage runs."""

import contextlib
import logging
import sys
from collections.abc import Iterator
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from components.runtime import progress
from components.runtime.printable import one_line, printable
from components.runtime.watch import StageWatch, saying

LOGGER = "components"
FORMAT = "%(asctime)s %(levelname)s %(message)s"
MOST_BYTES = 10 * 2**20
"""Size at which a file is renamed to `*.log.1`, whose predecessor is removed."""

log = logging.getLogger(__name__)


class _StageLines(StageWatch):
    """Log the beginning and the end of each stage."""

    def began(self, round: str, stage: str) -> None:
        super().began(round, stage)
        if stage:
            log.info("%sbegins", self.name)

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        log.info("%s  %-22s%s", round, stage, "already done" if already_done else f"done in {seconds:.1f} s")
        super().ended(round, stage, seconds, already_done=already_done)


class _Formatter(logging.Formatter):
    """Write a record so that no text in it steers the terminal that shows the file, or looks like another record."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record)).replace("\n", "\n    ")


class _LogFile(RotatingFileHandler):
    """A file that appears, with its folder, at the first record."""

    def _open(self) -> Any:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave a line out that the disk does not take, without the traceback that logging prints."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        """Close the file; what the disk did not take is lost."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def logged_to(path: Path) -> Iterator[None]:
    """Append the components' log records within the block to a file, from level INFO on.

    Stages, a line a minute while one runs, and the error that ends the block are among them. Handlers that others put
    on the components' logger get them too. An error before the first record, such as wrong input, leaves no file.
    """
    handler = _LogFile(path, maxBytes=MOST_BYTES, backupCount=1, encoding="utf-8", delay=True)
    handler.setFormatter(_Formatter(FORMAT))
    logger, lines = logging.getLogger(LOGGER), _StageLines()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        with progress.reporting_to(lines), saying(lines, log.info):
            yield
    except BaseException as error:
        if handler.stream is not None:
            # Signals, such as those of a pause or of Ctrl-C, are no errors.
            level = logging.ERROR if isinstance(error, Exception) else logging.WARNING
            said = one_line(str(error))
            log.log(level, "ended by %s%s", type(error).__name__, f": {said}" if said else "")
        raise
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def only_errors(name: str) -> Iterator[None]:
    """Keep a logger to errors within the block.

    Args:
        name: The logger's name; loggers below it are kept to errors too.
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
