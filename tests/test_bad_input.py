"""What is refused, in words that name the parameter, what came and what is accepted."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import sbc_kernels as sbc

W = np.ones((4, 6), dtype=np.float32)
S = np.ones((3, 5, 6), dtype=bool)
H = np.eye(6, dtype=np.float32)
KEEP = np.ones((4, 6), dtype=bool)
GRID = sbc.fit_grid(W, 4)
KERNEL = np.ones((4, 2, 3, 3), dtype=np.float32)
MAPS = np.ones((3, 5, 4, 6, 6), dtype=bool)


def _nan(array: np.ndarray, value: float = np.nan) -> np.ndarray:
    bad = array.astype(np.float32)
    bad.flat[7] = value
    return bad


def _meta(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array).to("meta")


def _fed(neuron: Any = None, **options: Any) -> sbc.SpikeHessian:
    return sbc.SpikeHessian(neuron, **options).update(MAPS if "conv" in options else S)


Case = tuple[Callable[[], Any], type[Exception], str]


def _check(case: Case) -> None:
    call, error, message = case
    with pytest.raises(error) as caught:
        call()
    text = str(caught.value)
    assert re.search(message, text), text
    assert re.search(r"accepted|this machine has|first$|not positive definite|not fit$", text), text


def compress(weight: Any = W, spikes: Any = S, *args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: sbc.compress_layer(weight, spikes, *args, **options)


V, T = ValueError, TypeError

LAYER_CASES: dict[str, Case] = {
    # W
    "W 1-D": (compress(np.ones(6, "f")), V, r"W has shape \[6\]; accepted is \[d_out, d_in\]"),
    "W 5-D": (compress(np.ones((1,) * 5, "f")), V, r"W has shape \[1, 1, 1, 1, 1\]"),
    "W empty": (compress(np.ones((0, 6), "f")), V, r"W has shape \[0, 6\]; .*no axis empty"),
    "W integer": (compress(np.ones((4, 6), int)), T, "W has dtype int64; accepted are real floats"),
    "W bool": (compress(KEEP), T, "W has dtype bool"),
    "W complex": (compress(W.astype(complex)), T, "W has dtype complex128; accepted are bool, int"),
    "W torch complex": (compress(torch.ones(4, 6) * 1j, torch.ones(3, 5, 6)), T, "W has .*complex"),
    "W objects": (compress(W.astype(object)), T, "W has dtype object"),
    "W text": (compress(W.astype(str)), T, "W has dtype <U"),
    "W NaN": (
        compress(_nan(W)),
        V,
        r"W has 1 values that are NaN or infinite, the first at \[1, 1\]",
    ),
    "W Inf": (compress(_nan(W, -np.inf)), V, "W has 1 values that are NaN or infinite"),
    "W sparse": (
        compress(torch.ones(4, 6).to_sparse(), torch.tensor(S)),
        T,
        "W is a torch.sparse_coo",
    ),
    "W meta": (compress(_meta(W), torch.tensor(S)), V, "W lies on meta; accepted is CPU memory"),
    "W float8": (
        compress(torch.ones(4, 6).to(torch.float8_e4m3fn), torch.tensor(S)),
        T,
        "W has dtype .*float8",
    ),
    "W None": (compress(None), T, "W is a NoneType; accepted are torch tensors, NumPy arrays and"),
    "W text itself": (compress("W"), T, "W is a str"),
    # spikes
    "spikes 2-D": (compress(W, S[0]), V, r"spikes has shape \[5, 6\]; accepted is \[T, N, d_in\]"),
    "spikes d_in": (compress(W, S[..., :5]), V, r"spikes has shape \[3, 5, 5\].*accepted are 6"),
    "spikes T = 0": (compress(W, S[:0]), V, r"spikes has shape \[0, 5, 6\]; .*no axis empty"),
    "spikes N = 0": (compress(W, S[:, :0]), V, r"spikes has shape \[3, 0, 6\]; .*no axis empty"),
    "spikes NaN": (compress(W, _nan(S)), V, r"spikes has 1 values .* the first at \[0, 1, 1\]"),
    "spikes Inf": (compress(W, _nan(S, np.inf)), V, "spikes has 1 values that are NaN or infinite"),
    "spikes complex": (compress(W, S.astype("c8")), T, "spikes has dtype complex64"),
    "spikes torch": (
        compress(W, torch.tensor(S)),
        T,
        "W is a numpy array and spikes a torch array",
    ),
    "W torch": (compress(torch.tensor(W), S), T, "W is a torch array and spikes a numpy array"),
    "spikes sparse": (
        compress(torch.tensor(W), torch.ones(3, 5, 6).to_sparse()),
        T,
        "spikes is a torch.sparse_coo tensor; accepted are dense tensors",
    ),
    "spikes meta": (compress(torch.tensor(W), _meta(S)), V, "spikes lies on meta"),
    "spikes None": (compress(W, None), T, "spikes is a NoneType"),
    # neuron and Hessian
    "neuron": (
        compress(W, S, "LIF"),
        T,
        "neuron is .*str; accepted is an object with",
    ),
    "kernel too short": (compress(W, S, sbc.Kernel([1.0, 0.5])), V, "k is 2 values; .*T = 3"),
    "hessian": (compress(hessian="obc"), V, "hessian is 'obc'; accepted are 'smp' and 'current'"),
    "hessian None": (compress(hessian=None), V, "hessian is None"),
    "not fed": (compress(W, sbc.SpikeHessian(sbc.IF())), V, "has seen 0 samples; feed it"),
    "fed another size": (
        compress(W[:, :5], _fed(sbc.IF())),
        V,
        "W has 5 inputs and spikes was fed 6; accepted are equal",
    ),
    "fed another neuron": (
        compress(W, _fed(sbc.IF()), sbc.LIF(2.0)),
        V,
        r"neuron is LIF\(tau=2.0.* and spikes was fed with IF\(\); accepted is None or the same",
    ),
    "fed with a neuron": (
        compress(W, _fed(sbc.IF()), hessian="current"),
        V,
        "hessian is 'current' and spikes was fed with a neuron",
    ),
    "fed for a convolution": (
        compress(W, _fed(sbc.IF(), conv=sbc.Conv((3, 3)))),
        V,
        r"spikes was fed for Conv\(.*accepted for this W is None",
    ),
    "fed for another stride": (
        compress(KERNEL, _fed(sbc.IF(), conv=sbc.Conv((3, 3), 2, groups=2)), groups=2),
        V,
        r"spikes was fed for Conv\(.*stride=\(2, 2\).*accepted for this W is Conv\(",
    ),
    # how much
    "sparsity above 1": (compress(sparsity=1.5), V, r"sparsity is 1\.5; accepted is a number in 0"),
    "sparsity percent": (compress(sparsity=97), V, "sparsity is 97"),
    "sparsity below 0": (compress(sparsity=-0.1), V, r"sparsity is -0\.1"),
    "sparsity NaN": (compress(sparsity=float("nan")), V, "sparsity is nan"),
    "sparsity N > M": (compress(sparsity="4:2"), V, "sparsity is '4:2'; .*'N:M' with 0 <= N <= M"),
    "sparsity text": (compress(sparsity="high"), V, "sparsity is 'high'"),
    "sparsity bool": (compress(sparsity=True), T, "sparsity is a bool"),
    "sparsity M": (
        compress(sparsity="2:4"),
        V,
        "sparsity is '2:4' and d_in is 6; accepted is an M",
    ),
    "bits 0": (compress(bits=0), V, r"bits is 0; accepted is an integer in 1\.\.8, or None"),
    "bits 9": (compress(bits=9), V, "bits is 9"),
    "bits 2.5": (compress(bits=2.5), V, r"bits is 2\.5"),
    "bits text": (compress(bits="4"), V, "bits is '4'"),
    "bits bool": (compress(bits=True), V, "bits is True"),
    # how
    "method": (
        compress(method="obs"),
        V,
        "method is 'obs'; accepted are 'exact', 'blocked', 'magnitude'",
    ),
    "rtn and sparsity": (
        compress(method="rtn", sparsity=0.5, bits=4),
        V,
        "method is 'rtn'; accepted",
    ),
    "rtn alone": (compress(method="rtn"), V, "method is 'rtn'; accepted with it is bits"),
    "magnitude and bits": (
        compress(method="magnitude", bits=4),
        V,
        "method is 'magnitude'; accepted",
    ),
    "grid": (
        compress(bits=4, grid="minmax"),
        V,
        "grid is 'minmax'; accepted are 'mse' and 'absmax'",
    ),
    "group_size 0": (
        compress(bits=4, group_size=0),
        V,
        "group_size is 0; accepted is -1 or an int",
    ),
    "group_size 7": (compress(bits=4, group_size=7), V, r"group_size is 7; .*integer in 1\.\.6"),
    "group_size 2.0": (compress(bits=4, group_size=2.0), V, r"group_size is 2\.0"),
    "block_size": (
        compress(block_size=0),
        V,
        "block_size is 0; accepted is an integer of at least 1",
    ),
    "block_size 1.5": (compress(block_size=1.5), V, r"block_size is 1\.5"),
    "damp_percent": (
        compress(damp_percent=-0.1),
        V,
        r"damp_percent is -0\.1; accepted is a number",
    ),
    "damp_percent NaN": (compress(damp_percent=np.nan), V, "damp_percent is nan"),
    "damp_percent Inf": (compress(damp_percent=np.inf), V, "damp_percent is inf"),
    "damp_percent text": (compress(damp_percent="1 %"), V, "damp_percent is '1 %'"),
    "act_order and N:M": (
        compress(sparsity="1:2", method="blocked", act_order=True),
        V,
        "act_order is True with method 'blocked' and an N:M pattern; accepted is False",
    ),
    "backend": (
        compress(backend="cuda9"),
        V,
        "backend is 'cuda9'; accepted is one .*portable",
    ),
    # convolutions
    "stride": (
        compress(stride=2),
        V,
        r"stride is given for W of shape \[4, 6\]; accepted is a conv",
    ),
    "padding": (compress(padding="same"), V, "padding is given for W"),
    "dilation": (compress(dilation=2), V, "dilation is given for W"),
    "groups": (compress(groups=2), V, "groups is given for W"),
    "groups of outputs": (
        compress(KERNEL, MAPS, groups=3),
        V,
        "groups is 3 with 4 outputs; accepted",
    ),
    "channels": (
        compress(KERNEL, MAPS),
        V,
        r"spikes has shape \[3, 5, 4, 6, 6\], that is 4 .*are 2",
    ),
    "maps flat": (
        compress(KERNEL, S, groups=2),
        V,
        r"spikes has shape \[3, 5, 6\]; accepted is \[T",
    ),
    "kernel too large": (
        compress(KERNEL, MAPS[..., :2, :], groups=2),
        V,
        r"spikes is a map of 2 positions along dimension 0; accepted is at least 3",
    ),
    "stride 0": (
        compress(KERNEL, MAPS, groups=2, stride=0),
        V,
        "stride is 0; accepted is an integer",
    ),
    "padding text": (compress(KERNEL, MAPS, groups=2, padding="full"), V, "padding is 'full'"),
    "M and a kernel": (compress(KERNEL, MAPS, groups=2, sparsity="2:4"), V, "d_in is 18; accepted"),
}


@pytest.mark.parametrize("name", LAYER_CASES)
def test_compress_layer(name: str) -> None:
    _check(LAYER_CASES[name])


def order(weight: Any = W, G: Any = H, *args: Any, **options: Any) -> Callable[[], Any]:
    return lambda: sbc.obs_order(weight, G, *args, **options)


def solve(weight: Any = W, G: Any = H, mask: Any = KEEP, **options: Any) -> Callable[[], Any]:
    return lambda: sbc.obs_solve(weight, G, mask, **options)


def quantize(weight: Any = W, G: Any = H, grid: Any = GRID, **options: Any) -> Callable[[], Any]:
    return lambda: sbc.obs_quantize(weight, G, grid, **options)


SKEW = H + np.triu(np.ones_like(H))
INDEFINITE = H - 2 * np.eye(6, dtype=np.float32)[::-1]


def _matrices(call: Callable[..., Callable[[], Any]], name: str) -> dict[str, Case]:
    """What every op says about weight and its matrix."""
    return {
        "weight 1-D": (call(W[0]), V, r"weight has shape \[6\]; accepted is \[any, any\]"),
        "weight integer": (
            call(W.astype(int)),
            T,
            "weight has dtype int64; accepted are float32 and",
        ),
        "weight NaN": (call(_nan(W)), V, "weight has 1 values that are NaN or infinite"),
        "weight complex": (call(W.astype("c8")), T, "weight has dtype complex64"),
        "weight meta": (call(_meta(W), torch.tensor(H)), V, "weight lies on meta"),
        "matrix shape": (call(W, H[:5]), V, rf"{name} has shape \[5, 6\]; accepted is \[6, 6\]"),
        "matrix size": (call(W, np.eye(5)), V, rf"{name} has shape \[5, 5\]; accepted is \[6, 6\]"),
        "matrix dtype": (
            call(W.astype(np.float64), np.eye(6, dtype=np.float32)),
            T,
            f"{name} is float32; accepted is weight's float64",
        ),
        "matrix NaN": (call(W, _nan(H)), V, f"{name} has 1 values that are NaN or infinite"),
        "matrix skew": (call(W, SKEW), V, f"{name} is not symmetric: .*accepted is a symmetric"),
        "matrix torch": (
            call(W, torch.tensor(H)),
            T,
            f"weight is a numpy array and {name} a torch",
        ),
        "matrix None": (call(W, None), T, f"{name} .*NoneType"),
        "backend": (
            call(backend="gpu"),
            V,
            "backend is 'gpu'; accepted is one .*portable",
        ),
    }


OP_CASES: dict[str, Case] = {
    **{f"order, {k}": case for k, case in _matrices(order, "inverse_hessian").items()},
    **{f"solve, {k}": case for k, case in _matrices(solve, "hessian").items()},
    **{f"quantize, {k}": case for k, case in _matrices(quantize, "hessian").items()},
    "order, diagonal": (
        order(W, 0 * H),
        V,
        "inverse_hessian has 6 diagonal entries that are not pos",
    ),
    "order, count": (
        order(W, H, 7),
        V,
        r"num_pruned is 7; accepted is an integer in 0\.\.6, or None",
    ),
    "order, negative count": (order(W, H, -1), V, "num_pruned is -1"),
    "order, half a weight": (order(W, H, 2.5), V, r"num_pruned is 2\.5"),
    "solve, mask shape": (
        solve(mask=KEEP[:3]),
        V,
        r"mask has shape \[3, 6\]; accepted is \[4, 6\]",
    ),
    "solve, mask dtype": (
        solve(mask=KEEP.astype(int)),
        T,
        "mask has dtype int64; accepted is bool",
    ),
    "solve, mask None": (solve(mask=None), T, "mask is a NoneType"),
    "solve, indefinite": (
        solve(W, INDEFINITE),
        np.linalg.LinAlgError,
        "hessian is not positive definite",
    ),
    "quantize, indefinite": (quantize(W, INDEFINITE), np.linalg.LinAlgError, "Hessian is not pos"),
    "quantize, grid": (quantize(grid="mse"), T, "grid is a str; accepted is a Grid of fit_grid"),
    "quantize, nothing": (quantize(grid=None), V, "grid and pattern are both None"),
    "quantize, block_size": (quantize(block_size=0), V, "block_size is 0; accepted is an integer"),
    "quantize, mask": (
        quantize(mask=KEEP[:3]),
        V,
        r"mask has shape \[3, 6\]; accepted is \[4, 6\]",
    ),
    "quantize, mask dtype": (quantize(mask=W), T, "mask has dtype float32; accepted is bool"),
    "quantize, both": (
        quantize(mask=KEEP, pattern=sbc.parse_sparsity(0.5)),
        V,
        "mask and pattern are both given; accepted is one",
    ),
    "quantize, pattern": (quantize(pattern="2:4"), T, "pattern is a str; accepted is a Pattern"),
    "quantize, M": (
        quantize(pattern=sbc.parse_sparsity("2:4"), act_order=False),
        V,
        "sparsity is '2:4' and d_in is 6",
    ),
    "quantize, act_order": (
        quantize(pattern=sbc.parse_sparsity("1:3")),
        V,
        "act_order is True with an N:M pattern; accepted is False",
    ),
    "quantize, block of M": (
        quantize(pattern=sbc.parse_sparsity("1:3"), act_order=False, block_size=4),
        V,
        "block_size is 4; accepted is a multiple of M = 3",
    ),
}


@pytest.mark.parametrize("name", OP_CASES)
def test_ops(name: str) -> None:
    if name == "solve, indefinite":  # a row that keeps all of its weights asks nothing of H
        keep = KEEP.copy()
        keep[:, 0] = False
        _check((solve(W, INDEFINITE, keep), *OP_CASES[name][1:]))
    else:
        _check(OP_CASES[name])


# ---- what is not refused, and what is never touched ----------------------------------------------


@pytest.mark.parametrize(
    "spikes",
    [S.astype(np.int8) * -1, np.where(np.arange(6) % 2, 1, -1) * S, -0.5 * S, S * 1e-15, S * 1e6],
    ids=["negative", "ternary", "analog", "tiny", "large"],
)
def test_odd_spikes_are_valid(spikes: np.ndarray) -> None:
    for options in ({"sparsity": 0.5}, {"bits": 3}, {"sparsity": "1:2", "method": "blocked"}):
        out = sbc.compress_layer(W, spikes, sbc.IF(), **options)
        assert np.isfinite(out.weight).all()
        assert np.isfinite(out.loss).all()


def test_every_op_leaves_its_arguments_alone() -> None:
    """Arrays that cannot be written to, and copies to compare with."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((9, 6))
    arrays = {
        "weight": rng.standard_normal((4, 6)),
        "matrix": root.T @ root + np.eye(6),
        "mask": rng.random((4, 6)) < 0.5,
        "spikes": rng.random((3, 5, 6)),
        "counts": rng.integers(0, 3, (3, 5, 6)),
    }
    copies = {name: array.copy() for name, array in arrays.items()}
    for writeable in (False, True):
        for array in arrays.values():
            array.setflags(write=writeable)
        weight, matrix, mask, spikes, counts = arrays.values()
        grid = sbc.fit_grid(weight, 4, importance=np.diagonal(matrix), mask=mask)
        answers = [
            *sbc.obs_order(weight, matrix),
            sbc.obs_solve(weight, matrix, mask),
            sbc.obs_solve(weight, matrix, np.ones_like(mask)),
            *sbc.obs_quantize(weight, matrix, grid, mask=mask)[:3],
            *sbc.obs_quantize(weight, matrix, None, pattern=sbc.parse_sparsity(0.5))[1:],
            sbc.spike_gram(spikes, sbc.LIF()),
            sbc.spike_gram(counts, sbc.LIF()),
        ]
        for name, array in arrays.items():
            assert np.array_equal(array, copies[name]), name
            assert not any(np.shares_memory(array, answer) for answer in answers), name


@pytest.mark.parametrize("damp_percent", [0.0, 1e-8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_never_nan(damp_percent: float, dtype: Any) -> None:
    """Duplicates with next to no damping: whatever is answered is finite and honest."""
    rng = np.random.default_rng(1)
    spikes = np.repeat(rng.random((4, 40, 8)) < 0.3, 3, axis=2)
    weight = rng.standard_normal((5, 24)).astype(dtype)
    for options in ({"sparsity": 0.5}, {"sparsity": "2:4"}, {"bits": 4}, {"method": "blocked"}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Cholesky failed")
            out = sbc.compress_layer(weight, spikes, damp_percent=damp_percent, **options)
        assert np.isfinite(out.weight).all()
        assert np.isfinite(out.loss).all()
        with_damping = sbc.compress_layer(weight, spikes, **options)
        assert out.loss.sum() < 1.5 * with_damping.loss.sum()
