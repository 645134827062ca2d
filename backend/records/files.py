"""Whole files or none: temp file, fsync, rename, fsync of the folder; one at a time; faults are told in a sentence."""

from __future__ import annotations

import errno
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backend.errors import DiskFull

TEMP_SUFFIX = ".easel-tmp"
STALE_SECONDS = 3600.0  # no write takes an hour; a younger temp file may be another process's


def write_atomically(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, whole and on disk, or leave everything as it was; folders are made.

    Raises:
        DiskFull: no room, no permission, or any other refusal of the file system.
    """
    temp = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}{TEMP_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temp.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temp.replace(path)
        except BaseException:
            temp.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


@contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Inside, no other thread or process is: what is read of ``path``, changed and written is lost by nobody.

    A lock lies beside it as long as it is held; one that was left by a process that has ended holds nobody up.

    Raises:
        DiskFull: no lock can be made there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.with_name(f".{path.name[:100]}.lock").open("ab")
    except OSError as error:
        raise _not_written(path, error) from error
    with file:  # closing it gives it free, as the end of the process does
        _wait_for(file.fileno())
        yield


def _wait_for(descriptor: int) -> None:
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX)


def sweep_temps(folder: Path, *, older_than: float = STALE_SECONDS) -> int:
    """Remove temp files that a killed process left in ``folder`` and below; returns how many."""
    limit = time.time() - older_than
    count = 0
    for temp in folder.rglob(f".*{TEMP_SUFFIX}"):
        try:
            if temp.is_file() and temp.stat().st_mtime <= limit:
                temp.unlink()
                count += 1
        except OSError:  # gone since, or not ours to remove: nothing is lost by leaving it
            continue
    return count


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return  # Windows has no fsync of folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_written(path: Path, error: OSError) -> DiskFull:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFull(f"{path.name} could not be written: the disk is full.", "Make room and try again.")
    reason = error.strerror or type(error).__name__
    return DiskFull(f"{path.name} could not be written ({reason}).", "Check that the data folder can be written.")
