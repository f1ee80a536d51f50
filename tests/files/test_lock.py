"""A folder's lock: one owner at a time, and owners that are gone are told from those at work."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sbc_kernels.files import lock
from sbc_kernels.files.lock import NAME, FolderInUse, FolderLock

OWNER = """
import sys
from pathlib import Path
from sbc_kernels.files.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]), "folder")
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "[]\n"
    yield process
    process.kill()
    process.communicate()


def no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


@pytest.mark.parametrize("locks", [True, False])
def test_a_live_owner_is_named_and_a_killed_one_replaced(
    tmp_path: Path, owner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    mine = FolderLock(tmp_path, "folder")
    name = f"process {owner.pid} on {socket.gethostname()}, at work since 20"
    with pytest.raises(FolderInUse, match=name) as refused:
        mine.acquire()
    assert refused.value.parameter == "folder"
    assert json.loads((tmp_path / NAME).read_text())["pid"] == owner.pid  # left as it was
    owner.send_signal(signal.SIGKILL)
    owner.communicate()
    notes = mine.acquire()
    assert f"left by process {owner.pid} on" in notes[0]
    assert ("without locks" in notes[-1]) == (not locks)
    assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    mine.release()
    assert (tmp_path / NAME).read_text() == ""
    assert "left by" not in " ".join(mine.acquire())
    mine.release()


@pytest.mark.parametrize("locks", [True, False])
def test_threads_of_one_process_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks: bool
) -> None:
    if not locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    first, second = FolderLock(tmp_path, "folder"), FolderLock(tmp_path, "folder")
    first.acquire()
    refused: list[str] = []

    def attempt() -> None:
        try:
            second.acquire()
        except FolderInUse as error:
            refused.append(str(error))

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    assert f"held by process {os.getpid()}" in refused[0]
    first.release()
    second.acquire()
    second.release()
    second.release()  # twice is no error


def test_records_where_there_are_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    here = lock._own_record()
    for change, live in (
        ({}, True),
        ({"host": "elsewhere"}, True),  # nobody here can tell
        ({"start": "1"}, False),  # another process has this number now
        ({"boot": "before"}, False),
        ({"pid": 2**22 + 1}, False),
        ({"pid": 10**30}, False),
        ({"pid": "x"}, True),
    ):
        (tmp_path / NAME).write_text(json.dumps(here | change))
        mine = FolderLock(tmp_path, "folder")
        if live:
            with pytest.raises(FolderInUse, match="remove it if that run has ended"):
                mine.acquire()
        else:
            assert "which has ended" in mine.acquire()[0]
            mine.release()
    (tmp_path / NAME).write_text("[" * 5000)
    with pytest.raises(FolderInUse, match="left no record"):
        FolderLock(tmp_path, "folder").acquire()


def test_a_forked_child_neither_holds_nor_releases_it(tmp_path: Path) -> None:
    mine, other = FolderLock(tmp_path, "folder"), FolderLock(tmp_path, "folder")
    mine.acquire()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:  # such as a worker of a DataLoader
        os.close(write)
        mine.release()
        os.read(read, 1)  # until the parent has released it
        os._exit(0 if FolderLock(tmp_path, "folder").acquire() == [] else 1)
    try:
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
        with pytest.raises(FolderInUse):
            other.acquire()
        mine.release()
        other.acquire()  # while the child lives
        other.release()
    finally:
        os.close(write)
        _, status = os.waitpid(child, 0)
        os.close(read)
    assert status == 0


def test_an_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match=rf"Input/output error: '.*{NAME}'"):
        FolderLock(tmp_path, "folder").acquire()
