"""A folder replaced whole or not at all: built beside, swapped by two renames, put back after a kill between them."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil

from backend.errors import BadRequest, DiskFull

WORK = ".installing"  # in the folder whose folders are replaced, so that a rename stays on one disk
LOCK = "lock"


@contextlib.contextmanager
def workshop(parent: Path) -> Iterator[Path]:
    """An empty folder in which a new folder of ``parent`` can be built; one process at a time has one.

    What a process that was killed has left is cleared away first, see ``recover_folders``.

    Raises:
        BadRequest: another process is at it.
        DiskFull: ``parent`` cannot be written.
    """
    work = parent / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        _lock(work)
        try:
            _recover(parent)
            room = work / secrets.token_hex(4)
            (room / "new").mkdir(parents=True)
            yield room
        finally:
            with contextlib.suppress(OSError):
                _recover(parent)
                (work / LOCK).unlink()
                work.rmdir()
    except OSError as error:
        raise DiskFull(
            f"{parent} cannot be written ({error.strerror or error}).", "Make room, or look at its permissions."
        ) from error


def put_in_place(new: Path, target: Path, room: Path) -> None:
    """Make ``new`` the folder ``target``; what was there goes to ``room`` and with it."""
    old = room / "old" / target.name
    old.parent.mkdir(exist_ok=True)
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise


def take_away(target: Path, room: Path) -> None:
    """Remove a folder: after the first moment nothing finds it any more."""
    target.rename(room / target.name)


def recover_folders(parent: Path) -> None:
    """Put back what a process that was killed in the middle of a swap had set aside, unless one is at work now."""
    work = parent / WORK
    if not work.is_dir() or _holder(work):
        return
    with contextlib.suppress(OSError):
        _recover(parent)
        (work / LOCK).unlink(missing_ok=True)
        work.rmdir()


def _recover(parent: Path) -> None:
    for room in (parent / WORK).iterdir():
        if not room.is_dir():
            continue
        for old in (room / "old").glob("*"):
            if not (parent / old.name).exists():
                old.rename(parent / old.name)
        shutil.rmtree(room)


def _lock(work: Path) -> None:
    if holder := _holder(work):
        raise BadRequest(f"Another installation is running (process {holder}).", "Wait until it has ended.")
    (work / LOCK).unlink(missing_ok=True)
    try:
        with (work / LOCK).open("x", encoding="ascii") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        raise BadRequest("Another installation has just begun.", "Wait until it has ended.") from None


def _holder(work: Path) -> int:
    """The process that holds the lock, other than this one; 0 if it has ended or there is none."""
    try:
        holder = int((work / LOCK).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0
    return holder if holder != os.getpid() and psutil.pid_exists(holder) else 0
