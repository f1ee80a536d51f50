"""Compiles every kernel for GPUs that need not be there, and reads what the compiler made of it.

python -m sbc_kernels.backends.triton.aot   the table of registers, shared memory and instructions
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from .device import SHARED_BYTES, Build
from .machine_code import functions

__all__ = ["ARCHITECTURES", "Report", "builds", "compile_build", "table"]

ARCHITECTURES = {"sm_80": 80, "sm_90": 90, "sm_100": 100}
MODULES = ("value_range", "spike_gram", "obs_order", "obs_solve", "obs_quantize", "factor")


@dataclass(frozen=True)
class Report:
    """The resources of a build on one architecture.

    Attributes
    ----------
    registers : of a thread. `spilled` is bytes of its stack: 0 where nothing had to leave registers.
    shared : bytes of shared memory of a thread block.
    tensor : the matrix instructions in the code, by name.
    """

    name: str
    architecture: str
    registers: int
    spilled: int
    shared: int
    tensor: tuple[str, ...]

    def row(self) -> str:
        """Returns its line of `table`."""
        cells = (
            *(self.name, self.architecture, self.registers, self.spilled, self.shared),
            " ".join(self.tensor),
        )
        return f"| {' | '.join(map(str, cells))} |"

    def faults(self, tensor_cores: bool) -> list[str]:
        """Returns the build's faults. `tensor_cores`: it must have matrix instructions."""
        reasons = []
        if self.spilled:
            reasons.append(f"spills {self.spilled} bytes a thread")
        if self.shared > SHARED_BYTES[self.architecture.rstrip("a")]:
            reasons.append(f"needs {self.shared} bytes of shared memory")
        if tensor_cores and not self.tensor:
            reasons.append("has no matrix instruction")
        return [f"{self.name} on {self.architecture} {reason}" for reason in reasons]


def builds(architecture: str) -> Iterator[Build]:
    """Yields every build for one of `ARCHITECTURES`, for its device class and for "other"."""
    identities = set()
    for name in MODULES:
        module = import_module(f"{__package__}.{name}")
        for device_class in (architecture, "other"):
            for build in module.builds(device_class):
                identity = (
                    build.name,
                    build.warps,
                    build.stages,
                    repr(sorted(build.constants.items())),
                )
                if identity not in identities:
                    identities.add(identity)
                    yield build


def compile_build(build: Build, architecture: str) -> Report:
    """Compiles to machine code, or takes it from Triton's cache. Raises what the compiler raises."""
    names = build.kernel.arg_names
    attrs = {
        (names.index(name),): [["tt.divisibility", 16]]
        for name in names  # in their order: Triton's cache is keyed by it
        if name in build.aligned or build.types.get(name, "").startswith("*")
    }
    signature = {n: build.types.get(n, "constexpr") for n in names}
    source = ASTSource(build.kernel, signature, constexprs=dict(build.constants), attrs=attrs)
    compiled: Any = triton.compile(
        source,
        target=GPUTarget("cuda", ARCHITECTURES[architecture], 32),
        options={"num_warps": build.warps, "num_stages": build.stages},
    )
    # ptxas makes matrix instructions only of PTX's: mma, wgmma.mma_async and tcgen05.mma.
    (function,) = functions(compiled.asm["cubin"], disassemble="mma" in compiled.asm["ptx"])
    return Report(
        build.name,
        architecture,
        function.registers,
        function.spilled,
        int(compiled.metadata.shared),
        function.tensor,
    )


def table() -> str:
    """Returns all builds as a Markdown table. Raises RuntimeError naming the faults."""
    lines = [
        "| kernel | architecture | registers | spilled | shared bytes | matrix instructions |",
        "|---|---|---|---|---|---|",
    ]
    faults: list[str] = []
    for architecture in ARCHITECTURES:
        for build in builds(architecture):
            report = compile_build(build, architecture)
            faults += report.faults(build.tensor_cores)
            lines.append(report.row())
    if faults:
        raise RuntimeError("; ".join(faults))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
