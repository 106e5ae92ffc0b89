"""Tell a full disk from other failures of a stage: most libraries name no file, and some not even the cause."""

import errno
import os
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)


def explained(error: BaseException, directory: Path) -> str:
    """Return an error's message, with the disk behind it if that is full.

    Args:
        error: The error.
        directory: Directory in which was written; what a failed write left there still takes its space.
    """
    if not (_is_of_full_disk(error) or _is_full(directory)):
        return str(error)
    return f"{error}: the disk of {directory.parent} is full: free some space"


def _is_of_full_disk(error: BaseException | None) -> bool:
    while error is not None:
        if (isinstance(error, OSError) and error.errno in FULL) or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_full(directory: Path) -> bool:
    try:
        return os.statvfs(directory).f_bavail == 0
    except OSError:
        return False
