"""One process at a time in a folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from weakref import WeakSet

from ..errors import ParameterError

try:
    import fcntl
except ImportError:  # no such locks on this system: the record alone tells
    fcntl = None  # type: ignore[assignment]

__all__ = ["FolderInUse", "FolderLock"]

NAME = ".run.lock"
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)  # by the file system

# On network file systems a lock belongs to a process: that two threads hold it, this set tells.
_held: set[tuple[int, int]] = set()
_held_guard = threading.Lock()


class FolderInUse(ParameterError):
    """Another run is at work in this folder."""


class FolderLock:
    """An advisory lock on a folder, with a record of its owner.

    The file `NAME` in the folder is locked with flock, which ends with the process, however that ends,
    and which Linux passes on to the server of a network file system. It holds the owner's host, pid and
    start time, and is empty while there is no owner. A record in a file that can be locked is stale.
    Where the file system has no locks, the record is all there is: of a process on this host that is
    gone it is stale, of another host nobody can tell, so that the folder is refused.

    Parameters
    ----------
    folder : exists.
    parameter : the name that the user knows it by.
    """

    def __init__(self, folder: Path, parameter: str) -> None:
        self.folder, self.parameter = folder, parameter
        self._file: int | None = None
        self._key: tuple[int, int] | None = None
        _locks.add(self)

    def acquire(self) -> list[str]:
        """Takes the lock, and returns remarks for people: a stale lock that was taken over.

        Raises
        ------
        FolderInUse : a ParameterError; another run holds it, which the message names.
        OSError : the folder cannot be written.
        """
        path = self.folder / NAME
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                locked = self._lock(file)
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    break
            except FileNotFoundError:  # the owner removed the folder's files when it was done
                self.folder.mkdir(parents=True, exist_ok=True)
            except BaseException:
                self._forget(file)
                raise
            self._forget(file)
        notes = []
        try:
            earlier = _record(file)
            if not locked and earlier is not None and _alive(earlier) is not False:
                raise self._in_use(earlier, " (remove it if that run has ended)")
            if earlier is not None:
                notes.append(
                    f"{self.parameter}: {path} was left by {_words(earlier)}, which has ended; "
                    "it is taken over"
                )
            if not locked:
                notes.append(
                    f"{self.parameter}: {self.folder} is on a file system without locks; "
                    f"{NAME} alone keeps other runs away"
                )
            os.ftruncate(file, 0)
            os.pwrite(file, json.dumps(_own_record()).encode(), 0)
        except OSError as error:
            self._forget(file)
            raise OSError(error.errno, error.strerror, str(path)) from error
        except BaseException:
            self._forget(file)
            raise
        self._file = file
        return notes

    def release(self) -> None:
        """Gives the lock back, if it is held."""
        if self._file is not None:
            file, self._file = self._file, None
            try:
                os.ftruncate(file, 0)
            finally:
                self._forget(file)

    def _lock(self, file: int) -> bool:
        """Locks the file. Returns False where the file system has no locks."""
        status = os.fstat(file)
        key = (status.st_dev, status.st_ino)
        with _held_guard:
            if key in _held:
                raise self._in_use(_record(file))
            _held.add(key)
            self._key = key
        if fcntl is None:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                return False
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise self._in_use(_record(file)) from None
            raise OSError(error.errno, error.strerror, str(self.folder / NAME)) from error
        return True

    def _in_use(self, record: dict[str, Any] | None, more: str = "") -> FolderInUse:
        return FolderInUse(
            self.parameter,
            self.folder,
            "a folder that no other run is using",
            shown=f"{self.folder}, whose {NAME} is held by {_words(record)}{more}",
        )

    def _forget(self, file: int) -> None:
        with _held_guard:
            if self._key is not None:
                _held.discard(self._key)
                self._key = None
        try:
            if fcntl is not None:  # closing unlocks only once no forked child has the file open
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            os.close(file)

    def _leave_to_parent(self) -> None:
        """Closes a forked child's copy of the file: only the parent's death may unlock it."""
        if self._file is not None:
            os.close(self._file)
            self._file = self._key = None


_locks: WeakSet[FolderLock] = WeakSet()


def _after_fork() -> None:
    global _held_guard
    _held_guard = threading.Lock()
    _held.clear()
    for lock in list(_locks):
        lock._leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _own_record() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "start": _start_of(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _record(file: int) -> dict[str, Any] | None:
    """Returns the record in a lock's file, {} for one that cannot be read; None where there is none."""
    text = os.pread(file, 4096, 0)
    if not text.strip():
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _words(record: dict[str, Any] | None) -> str:
    if not record:
        return "a process that left no record"
    host, pid, since = (f"{record.get(key, '?')!s:.80}" for key in ("host", "pid", "since"))
    return f"process {pid} on {host}, at work since {since}"


def _alive(record: dict[str, Any]) -> bool | None:
    """Whether the process of a record is there; None where this host cannot tell."""
    pid = record.get("pid")
    if record.get("host") != socket.gethostname() or not isinstance(pid, int) or pid < 1:
        return None
    if record.get("boot") != _boot():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return bool(record.get("start") == _start_of(pid))  # else another process has this number now


def _boot() -> str | None:
    """Returns what this start of the machine is called; None where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None


def _start_of(pid: int) -> str | None:
    """Returns a process's start time, in ticks since the machine's; None if the system won't tell."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
