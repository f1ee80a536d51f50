"""The memory that this process may still take, and the refusal of what certainly needs more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["available_memory", "in_bytes", "require_memory"]

# Predictions are near the truth, not exact: only what is this much beyond the memory is refused.
_MARGIN = 0.75
_SMALL = 64 << 20  # bytes: that there is less is not looked up for every small layer
_CGROUPS = Path("/sys/fs/cgroup")


def available_memory(device: Any = None) -> int | None:
    """Returns the bytes that this process can still take, or None where the system does not tell.

    That is the least of what the machine has available, with its swap, and of what limits leave:
    RLIMIT_AS, RLIMIT_DATA, and control groups of both versions.

    Parameters
    ----------
    device : a CUDA device: what is free there, and what torch has reserved and does not use.
    """
    if getattr(device, "type", "cpu") == "cuda":
        cuda = sys.modules["torch"].cuda
        unused = cuda.memory_reserved(device) - cuda.memory_allocated(device)
        return int(cuda.mem_get_info(device)[0]) + int(unused)
    machine = _fields(Path("/proc/meminfo"))
    swap = machine.get("SwapFree", 0) << 10
    limits = [
        *([(machine["MemAvailable"] << 10) + swap] if "MemAvailable" in machine else []),
        *_left_by_limits(),
        *(left + swap for left in _left_by_groups()),
    ]
    return max(min(limits), 0) if limits else None


def require_memory(need: int, device: Any, what: str, remedies: Iterator[tuple[str, int]]) -> None:
    """Raises MemoryError if `need` bytes are certainly more than this process can take.

    Parameters
    ----------
    need : predicted.
    device : see `available_memory`.
    what : needs so much, for people.
    remedies : what may be asked for instead, with what it needs: those that fit are named.
    """
    available = available_memory(device) if need > _SMALL else None
    if available is None or _MARGIN * need <= available:
        return
    fitting = [f"{how} ({in_bytes(size)})" for how, size in remedies if size <= available]
    accepted = "; accepted is " + " or ".join(fitting) if fitting else "; nothing less exact fits"
    raise MemoryError(
        f"{what} needs about {in_bytes(need)} and {in_bytes(available)} are available{accepted}"
    )


def in_bytes(size: float) -> str:
    """Returns a size for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB" if size < 1000 else f"{size:.0f} GiB"


def _left_by_limits() -> Iterator[int]:
    """Yields what the limits of this process leave."""
    try:
        import resource
    except ImportError:  # no POSIX system
        return
    status = _fields(Path("/proc/self/status"))
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft = resource.getrlimit(limit)[0]
        if soft != resource.RLIM_INFINITY:
            yield int(soft) - (status.get(used, 0) << 10)


def _left_by_groups(root: Path = _CGROUPS, own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Yields what each control group of this process leaves, with caches that can be dropped."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            base = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        # In a container the path may be the host's, and the root is the container's own group.
        place = base / path.lstrip("/")
        while True:
            limit, used = (_integer(place / name) for name in names[:2])
            if limit is not None and used is not None:
                yield limit - used + _fields(place / "memory.stat").get(names[2], 0)
            if place == base or base not in place.parents:
                break
            place = place.parent


def _integer(path: Path) -> int | None:
    """Returns the number in a file; None where there is none, or it is "max"."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _fields(path: Path) -> dict[str, int]:
    """Returns the numbers of a file of lines "name: number ..."; none where it cannot be read."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    words = [line.replace(":", " ").split() for line in lines]
    return {w[0]: int(w[1]) for w in words if len(w) > 1 and w[1].isdigit()}
