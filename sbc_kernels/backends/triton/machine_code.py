"""Reads registers and matrix instructions from machine code, with the disassembler of Triton."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import triton
from triton.runtime.cache import get_cache_manager

__all__ = ["Function", "cuobjdump", "functions"]

_TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
# Matrix instructions as the machine code names them: mma, wgmma and tcgen05.
_MATRIX_INSTRUCTION = re.compile(r"\b(?:[HIDQ]MMA|[HIQ]GMMA|UTC\w*MMA)\b")
# The lines of `cuobjdump -res-usage` that name an architecture or describe a function.
_USAGE = re.compile(
    r"^arch = (?P<architecture>\w+)|"
    r"Function (?P<name>\w+):\s+REG:(?P<registers>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) "
    r"LOCAL:(?P<local>\d+)",
    re.MULTILINE,
)
# The lines of `cuobjdump -sass` that begin an architecture or a function.
_CODE = re.compile(r"^arch = (?P<architecture>\w+)|^\s*Function : (?P<name>\w+)$", re.MULTILINE)


class Function(NamedTuple):
    """One function of a binary on one architecture.

    Attributes
    ----------
    name : mangled, if the compiler mangles names.
    architecture : as an object file names it; empty in a cubin, which holds only one.
    registers : of a thread. `spilled` is bytes of its stack and local memory.
    shared : static shared memory of a thread block in bytes.
    tensor : names of the matrix instructions in its code.
    """

    name: str
    architecture: str
    registers: int
    spilled: int
    shared: int
    tensor: tuple[str, ...]


def functions(binary: bytes, disassemble: bool = True) -> list[Function]:
    """Returns the functions of a cubin or of an object file.

    Disassembly takes 0.3 s of CPU time a binary, so the result is kept in Triton's cache. Its key
    covers the binary, the version of the disassembler, and this file.

    Parameters
    ----------
    disassemble : False if the code is known to have no matrix instructions, which saves the time.
    """
    parts = (binary, _version(), Path(__file__).read_bytes(), str(disassemble).encode())
    key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    cache = get_cache_manager(key)
    path = cache.get_file("functions.json")
    if path is None:
        path = cache.put(
            json.dumps([row._asdict() for row in _read(binary, disassemble)]), "functions.json"
        )
    rows = json.loads(Path(path).read_text())
    return [Function(**{**row, "tensor": tuple(row["tensor"])}) for row in rows]


def cuobjdump(*arguments: str | Path) -> str:
    """Returns what NVIDIA's disassembler prints."""
    return subprocess.run([_TOOL, *arguments], capture_output=True, text=True, check=True).stdout


@lru_cache
def _version() -> bytes:
    return cuobjdump("--version").encode()


def _read(binary: bytes, disassemble: bool) -> list[Function]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "binary"
        path.write_bytes(binary)
        usage = cuobjdump("-res-usage", path)
        code = cuobjdump("-sass", path) if disassemble else None
    instructions = None if code is None else _matrix_instructions(code)
    rows = []
    architecture = ""
    for match in _USAGE.finditer(usage):
        if match["architecture"]:
            architecture = match["architecture"]
            continue
        registers, stack, shared, local = (
            int(match[group]) for group in ("registers", "stack", "shared", "local")
        )
        name = match["name"]
        tensor = () if instructions is None else instructions[architecture, name]
        rows.append(Function(name, architecture, registers, stack + local, shared, tensor))
    return rows


def _matrix_instructions(code: str) -> dict[tuple[str, str], tuple[str, ...]]:
    """Returns the names of the matrix instructions by architecture and function."""
    instructions = {}
    architecture = ""
    heads = list(_CODE.finditer(code))
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        if head["architecture"]:
            architecture = head["architecture"]
            continue
        body = code[head.end() : following.start() if following else None]
        names = tuple(sorted(set(_MATRIX_INSTRUCTION.findall(body))))
        instructions[architecture, head["name"]] = names
    return instructions
