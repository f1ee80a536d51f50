"""The compiled kernels. Arrays are anything that exports DLPack from CPU memory, row-major."""

from typing import Any

with_cuda: bool

def available_isas() -> list[str]: ...
def cuda_devices() -> list[str]: ...
def measure_skew(matrix: Any, threads: int) -> tuple[float, float]: ...
def narrow_spikes(spikes: Any, to: Any, threads: int) -> tuple[bool, int, int]: ...
def assemble_conv(
    sums: list[Any], blocks: list[Any], factor: float, matrix: Any, threads: int
) -> None: ...
def mirror_upper(matrix: Any, factor: float, threads: int) -> None: ...
def spike_gram(
    spikes: Any,
    first_channel: int,
    channels: int,
    pair_weights: Any | None,
    matched_filter: Any | None,
    lane_bytes: int,
    planes: int,
    digits: int,
    is_signed: bool,
    squared: bool,
    max_term: int,
    triangle: bool,
    finish: float,
    positions: list[Any],
    neighbours: list[Any],
    sums: list[Any],
    isa: str,
    threads: int,
) -> None: ...
def obs_order(
    weight: Any,
    inverse_hessian: Any,
    group: Any | None,
    quota: Any | None,
    order: Any,
    loss: Any,
    isa: str,
    threads: int,
) -> None: ...
def obs_solve(
    matrix: Any,
    rhs: Any,
    select: Any,
    multiply: bool,
    solution: Any,
    failed: Any,
    isa: str,
    threads: int,
) -> None: ...
def obs_quantize(
    weight: Any,
    factor: Any,
    perm: Any,
    block_size: int,
    bits: int,
    scale: Any | None,
    zero_point: Any | None,
    group: Any | None,
    mask: Any | None,
    num_pruned: int,
    keep_n: int,
    of_m: int,
    quantized: Any,
    codes: Any | None,
    kept: Any | None,
    loss: Any,
    isa: str,
    threads: int,
) -> None: ...
def upper_factor(matrix: Any, perm: Any, factor: Any, isa: str, threads: int) -> int: ...
