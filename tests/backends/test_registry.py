"""Which backend runs, and that none of it needs torch."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import sbc_kernels as sbc
from sbc_kernels import _native
from sbc_kernels.backends import registry as dispatch


def test_what_there_is() -> None:
    names = sbc.available_backends("cpu")
    assert "portable" in names
    assert set(names) <= set(dispatch.BACKENDS)
    assert [name for name in dispatch.BACKENDS if name in names] == names  # fastest first
    native = [name for name in names if name in _native.available_isas()]
    assert native == _native.available_isas()[::-1]
    info = sbc.native_info()
    assert info["isa"] == native[0]
    assert info["available_isas"] == _native.available_isas()
    assert info["threads"] == torch.get_num_threads()
    assert info["cuda"] is None or isinstance(info["cuda"], list)


def test_version_and_names() -> None:
    assert isinstance(sbc.__version__, str)
    for name in sbc.__all__:
        assert getattr(sbc, name) is not None
    assert sorted(sbc.__all__) == sorted(set(sbc.__all__))


@pytest.mark.parametrize("op", dispatch.OPS)
def test_a_named_backend_runs_or_raises(op: str) -> None:
    for name in sbc.available_backends():
        assert callable(dispatch.resolve(op, name))
    assert callable(dispatch.resolve(op, None))
    for wrong in ("cuda9", "", "AVX2", "triton-x", 3):
        with pytest.raises(ValueError, match=r"backend is .*; this machine has .*portable"):
            dispatch.resolve(op, wrong)  # type: ignore[arg-type]


def test_unknown_ops() -> None:
    with pytest.raises(ValueError, match="op is 'gram'; accepted are spike_gram, obs_order"):
        dispatch.resolve("gram", None)


def test_a_backend_that_is_not_here_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing falls back in silence: not the layer, not the ops, not a stream."""
    monkeypatch.setattr(_native, "available_isas", lambda: ["portable"])
    assert sbc.available_backends("cpu") == ["portable"]
    spikes, weight = np.ones((2, 3, 4), bool), np.ones((2, 4))
    for call in (
        lambda: sbc.compress_layer(weight, spikes, backend="avx2"),
        lambda: sbc.spike_gram(spikes, backend="avx2"),
        lambda: sbc.SpikeHessian(backend="avx2"),
        lambda: sbc.obs_order(weight, np.eye(4), backend="avx2"),
        lambda: sbc.obs_solve(weight, np.eye(4), weight < 0, backend="avx2"),
        lambda: sbc.obs_quantize(weight, np.eye(4), sbc.fit_grid(weight, 4), backend="avx2"),
    ):
        with pytest.raises(ValueError, match="backend is 'avx2'; this machine has portable"):
            call()


def test_every_op_is_asked_for_the_named_backend(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = dispatch.BACKENDS[backend].load

    def load(op: str) -> Callable[..., Any]:
        asked.append(op)
        return real(op)

    record = dispatch.Backend(backend, "spy", lambda: True, load)
    monkeypatch.setitem(dispatch.BACKENDS, backend, record)
    rng = np.random.default_rng(0)
    weight, spikes = rng.standard_normal((3, 8)), rng.random((2, 20, 8)) < 0.4
    sbc.compress_layer(weight, spikes, sparsity=0.5, bits=4, backend=backend)
    assert set(asked) == set(dispatch.OPS)


def test_threads_are_torchs(set_threads: Callable[[int], None]) -> None:
    for threads in (1, 2):
        set_threads(threads)
        assert dispatch.thread_count() == threads
        assert sbc.native_info()["threads"] == threads


def _run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-P", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_torch() -> None:
    """Every kind of job on NumPy arrays, where importing torch fails."""
    assert "done" in _run(
        """
        import sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] == "torch":
                    raise ImportError("no torch here")

        sys.meta_path.insert(0, Refuse())
        import numpy as np
        import sbc_kernels as sbc

        rng = np.random.default_rng(0)
        spikes, weight = rng.random((4, 30, 12)) < 0.3, rng.standard_normal((5, 12))
        for options in ({}, {"bits": 4}, {"sparsity": "2:4", "bits": 2}, {"method": "blocked"}):
            out = sbc.compress_layer(weight, spikes, **options)
            assert type(out.weight) is np.ndarray and np.isfinite(out.weight).all()
        maps, kernel = rng.random((2, 5, 3, 6, 6)) < 0.3, rng.standard_normal((4, 3, 3, 3))
        out = sbc.compress_layer(kernel, maps, padding="same")
        assert out.weight.shape == kernel.shape
        assert sbc.native_info()["threads"] >= 1
        assert "torch" not in sys.modules
        try:
            import torch
        except ImportError:
            print("done")
        """
    )


def test_importing_imports_little() -> None:
    """No torch, no GPU, nothing printed."""
    loaded = _run(
        """
        import sys
        import sbc_kernels
        heavy = {"torch", "triton", "jax", "cupy", "matplotlib", "pandas", "sklearn"}
        print(sorted(heavy & set(sys.modules)))
        """
    )
    assert loaded == "[]\n"


def test_backends_by_device() -> None:
    assert sbc.available_backends()[: len(sbc.available_backends("cpu"))] == sbc.available_backends(
        "cpu"
    )
    assert set(sbc.available_backends("cpu") + sbc.available_backends("cuda")) == set(
        sbc.available_backends()
    )
    with pytest.raises(ValueError, match="device is 'gpu'; accepted are 'cpu', 'cuda' and None"):
        sbc.available_backends("gpu")
