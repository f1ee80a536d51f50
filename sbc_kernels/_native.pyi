"""The compiled kernels. Arrays are anything that exports DLPack from CPU memory, row-major."""

from typing import Any

with_cuda: bool

def available_isas() -> list[str]: ...

# Where with_cuda: addresses and sizes as numbers, stream a CUstream.
most_panel_places: int

def cuda_devices() -> list[str]: ...
def runs_multiply_bytes(device: int) -> bool: ...
def runs_order_panel(device: int) -> bool: ...
def multiply_bytes(
    planes: int,
    rows: int,
    units: int,
    num_units: int,
    pairs: int,
    partials: int,
    slots: int,
    channels: int,
    device: int,
    stream: int,
) -> None: ...
def order_panel(
    matrix: int,
    weight: int,
    diagonal: int,
    floor: int,
    state: int,
    ids: int,
    lines: int,
    unit: int,
    order: int,
    loss: int,
    rows: int,
    matrix_stride: int,
    lines_stride: int,
    width: int,
    tile: int,
    side: int,
    num_pruned: int,
    m: int,
    count: int,
    done: int,
    device: int,
    stream: int,
) -> None: ...
def measure_skew(matrix: Any, threads: int) -> tuple[float, float]: ...
def narrow_spikes(spikes: Any, to: Any | None, threads: int) -> tuple[bool, int, int]: ...
def narrow_multiples(
    spikes: Any, to: Any, unit: float, threads: int
) -> tuple[bool, int, int, float, float]: ...
def assemble_conv(
    sums: list[Any], blocks: list[Any], factor: float, matrix: Any, threads: int
) -> None: ...
def mirror_upper(matrix: Any, factor: float, threads: int) -> None: ...

# One entry an algorithm, called after its stem in csrc/spike_gram. Positions, neighbours and sums are
# lists by region, each of the sums float64 [groups, num_shifts, channels, channels].
def gram_tables(
    spikes: Any,
    groups: int,
    triangle: bool,
    matched_filter: Any,
    lane_bytes: int,
    planes: int,
    is_signed: bool,
    max_term: int,
    positions: list[Any],
    neighbours: list[Any],
    sums: list[Any],
    isa: str,
    threads: int,
) -> None: ...
def gram_pair_tables(
    spikes: Any,
    groups: int,
    triangle: bool,
    pair_weights: Any,
    positions: list[Any],
    neighbours: list[Any],
    sums: list[Any],
    isa: str,
    threads: int,
) -> None: ...
def gram_counts(
    spikes: Any,
    groups: int,
    triangle: bool,
    pair_weights: Any,
    finish: float,
    positions: list[Any],
    neighbours: list[Any],
    sums: list[Any],
    isa: str,
    threads: int,
) -> None: ...
def gram_bytes(
    spikes: Any,
    groups: int,
    triangle: bool,
    filter: Any,
    digits: int,
    is_signed: bool,
    squared: bool,
    max_term: int,
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
def obs_select(
    weight: Any,
    hessian: Any,
    group: Any | None,
    quota: Any | None,
    order: Any,
    gain: Any,
    failed: Any,
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
def inverse(matrix: Any, inverse: Any, isa: str, threads: int) -> int: ...
def solve_positive(matrix: Any, rhs: Any, solution: Any, isa: str, threads: int) -> int: ...
def product(left: Any, right: Any, out: Any, isa: str, threads: int) -> None: ...
def add_square(rows: Any, total: Any, isa: str, threads: int) -> None: ...
