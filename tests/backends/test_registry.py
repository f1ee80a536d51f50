"""One protocol for every backend, which of them runs, what it says it ran; and none needs torch."""

from __future__ import annotations

import inspect
import subprocess
import sys
import textwrap
from collections.abc import Callable
from typing import Any, get_type_hints

import numpy as np
import pytest
import torch

import sbc_kernels as sbc
from sbc_kernels import _native
from sbc_kernels.backends import protocol, registry
from sbc_kernels.backends.cuda import backend as cuda_backend
from sbc_kernels.backends.gram_plan import ALGORITHMS
from sbc_kernels.backends.kernels import note_kernel, recorded_kernels
from sbc_kernels.backends.native.backend import NativeBackend
from sbc_kernels.backends.native.isas import kernel_of
from sbc_kernels.backends.protocol import MATRIX_OPS
from sbc_kernels.backends.registry import BACKENDS, OPS, Backend, named_backend
from sbc_kernels.backends.triton import backend as triton_backend
from sbc_kernels.layer import PreparedLayer, checked_weight
from sbc_kernels.method import LayerOptions
from sbc_kernels.threads import thread_count

SPIKES, WEIGHT = np.ones((2, 3, 4), bool), np.ones((2, 4))


def test_what_there_is() -> None:
    names = sbc.available_backends("cpu")
    assert "portable" in names
    assert set(names) <= set(BACKENDS)
    assert [name for name in BACKENDS if name in names] == names  # fastest first
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


def signature_of(backend: Any, op: str) -> tuple[inspect.Signature, dict[str, Any]]:
    method = getattr(backend, op)
    return inspect.signature(method), get_type_hints(method, vars(protocol))


OPS_OF_THE_PROTOCOL = (*MATRIX_OPS, "gram", "kernel", "available")


@pytest.mark.parametrize("op", OPS_OF_THE_PROTOCOL)
@pytest.mark.parametrize("name", BACKENDS)
def test_every_op_has_one_signature(name: str, op: str) -> None:
    """Names, kinds, defaults and annotations of the parameters, and of what comes back."""
    wanted, backend = getattr(Backend, op), BACKENDS[name]
    signature = inspect.signature(wanted)
    parameters = list(signature.parameters.values())[1:]  # without self
    assert signature_of(backend, op)[0] == signature.replace(parameters=parameters)
    assert signature_of(backend, op)[1] == get_type_hints(wanted, vars(protocol))


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_keeps_the_protocol(name: str) -> None:
    backend = BACKENDS[name]
    assert isinstance(backend, Backend)
    assert backend.name == name
    assert backend.device in ("cpu", "cuda")
    assert backend.description
    for op in OPS:
        assert backend.kernel(op)
    # No GPU has a kernel for it yet: the call raises, and tests/ops/test_obs_select.py looks.
    assert (backend.kernel("obs_select") == "none") == (backend.device == "cuda")


def test_a_named_backend_runs_or_raises() -> None:
    for name in sbc.available_backends():
        assert named_backend(name) is BACKENDS[name]
    for wrong in ("cuda9", "", "AVX2", "triton-x", 3):
        with pytest.raises(sbc.ParameterError, match=r"accepted is one .*portable") as caught:
            named_backend(wrong)
        assert (caught.value.parameter, caught.value.given) == ("backend", wrong)


CALLS: dict[str, Callable[[str], Any]] = {
    "compress_layer": lambda name: sbc.compress_layer(WEIGHT, SPIKES, backend=name),
    "spike_gram": lambda name: sbc.spike_gram(SPIKES, backend=name),
    "SpikeHessian": lambda name: sbc.SpikeHessian(backend=name),
    "obs_order": lambda name: sbc.obs_order(WEIGHT, np.eye(4), backend=name),
    "obs_select": lambda name: sbc.obs_select(WEIGHT, np.eye(4), 2, backend=name),
    "obs_solve": lambda name: sbc.obs_solve(WEIGHT, np.eye(4), WEIGHT < 0, backend=name),
    "obs_quantize": lambda name: sbc.obs_quantize(
        WEIGHT, np.eye(4), sbc.fit_grid(WEIGHT, 4), backend=name
    ),
    "damped_inverse": lambda name: sbc.damped_inverse(np.eye(4), backend=name),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_backend_that_is_not_here_is_not_replaced(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing falls back in silence: not the layer, not the ops, not a stream."""
    monkeypatch.setattr(_native, "available_isas", lambda: ["portable"])
    names = sbc.available_backends()
    assert [name for name in names if isinstance(BACKENDS[name], NativeBackend)] == ["portable"]
    message = rf"backend is 'avx2'; accepted is one .*: {', '.join(names)}$"
    with pytest.raises(ValueError, match=message):
        CALLS[call]("avx2")


@pytest.mark.skipif("cuda" in sbc.available_backends(), reason="CUDA kernels run here")
@pytest.mark.parametrize("call", CALLS)
def test_cuda_by_name_raises_where_its_kernels_do_not_run(call: str) -> None:
    names = ", ".join(sbc.available_backends())
    with pytest.raises(ValueError, match=f"backend is 'cuda'; accepted is one .*: {names}$"):
        CALLS[call]("cuda")


def test_cuda_is_there_where_a_kernel_of_its_own_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And says which ops it leaves to Triton."""
    device = torch.device("cuda", 0)
    kernels: set[str] = set()
    monkeypatch.setattr(cuda_backend, "interpreted", lambda: False)
    monkeypatch.setattr(triton_backend.TritonBackend, "available", lambda self, device=None: True)
    monkeypatch.setattr(cuda_backend, "has_kernel", lambda name, device=None: name in kernels)
    cuda = BACKENDS["cuda"]
    assert not cuda.available(device)
    assert registry.fastest_backend("cuda", device).name == "triton"
    kernels.add("order_panel")
    assert registry.fastest_backend("cuda", device) is cuda
    assert "cuda" in sbc.available_backends("cuda")
    assert cuda.kernel("obs_order") == "cuda"
    assert {cuda.kernel(op) for op in ("spike_gram", "obs_solve", "obs_quantize")} == {"triton"}
    kernels.add("multiply_bytes")
    assert cuda.kernel("spike_gram") == "cuda"
    assert BACKENDS["triton"].kernel("spike_gram") == "triton"


# ---- what ran ----------------------------------------------------------------------------------

NATIVE_MATRIX_OPS = ("inverse", "obs_order", "obs_solve", "obs_quantize", "upper_factor")


@pytest.fixture
def native_calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, set[str]]:
    """The instruction sets that the C++ module is really called with, by op."""
    calls: dict[str, set[str]] = {}

    def spied(op: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def spy(*args: Any, isa: str, **options: Any) -> Any:
            calls.setdefault(op, set()).add(isa)
            return run(*args, isa=isa, **options)

        return spy

    entries = {f"gram_{stem}": "spike_gram" for stem in ALGORITHMS}  # one an algorithm
    for entry, op in (entries | {op: op for op in NATIVE_MATRIX_OPS}).items():
        monkeypatch.setattr(_native, entry, spied(op, getattr(_native, entry)))
    return calls


@pytest.mark.parametrize(
    "backend",
    [n for n in sbc.available_backends("cpu") if isinstance(BACKENDS[n], NativeBackend)],
)
def test_what_is_named_is_what_ran(backend: str, native_calls: dict[str, set[str]]) -> None:
    rng = np.random.default_rng(0)
    weight, spikes = rng.standard_normal((3, 8)), rng.random((2, 20, 8)) < 0.4
    out = sbc.compress_layer(weight, spikes, sparsity=0.5, bits=4, backend=backend)
    assert set(native_calls) == {"spike_gram", *NATIVE_MATRIX_OPS}
    assert set(out.backend) == {"spike_gram", *NATIVE_MATRIX_OPS}
    for op in NATIVE_MATRIX_OPS:
        assert native_calls[op] == {out.backend[op]} == {BACKENDS[backend].kernel(op)}
    assert native_calls["spike_gram"] == {backend}
    assert out.log[-1] == "kernels: " + ", ".join(f"{op} {k}" for op, k in out.backend.items())


def test_a_prepared_order_is_named_each_time() -> None:
    """It ran once; every sparsity's result rests on it."""
    rng = np.random.default_rng(0)
    weight, H = rng.standard_normal((3, 8)), np.eye(8)
    prepared = PreparedLayer(checked_weight(weight), H[None])
    options = [LayerOptions(sparsity=s).resolved() for s in (0.3, 0.6)]
    first, second = (prepared.compress(option) for option in options)
    assert first.backend == second.backend
    assert {"inverse", "obs_order", "obs_solve"} == set(first.backend)


def test_kernels_are_noted_by_op_and_in_order() -> None:
    with recorded_kernels() as outer:
        note_kernel("obs_order", "cuda")
        with recorded_kernels({"obs_order": "triton"}) as inner:
            note_kernel("obs_order", "cuda + triton")
        note_kernel("obs_solve", "avx2")
    note_kernel("obs_order", "nobody listens")
    assert outer == {"obs_order": "cuda + triton", "obs_solve": "avx2"}
    assert inner == {"obs_order": "triton + cuda"}


@pytest.mark.parametrize(
    ("isa", "stem", "kernel"),
    [
        ("amx", "bytes", "amx"),
        ("amx", "counts", "vpopcnt"),
        ("amx", "tables", "avx512"),
        ("amx", "obs_order", "avx512"),
        ("vpopcnt", "counts", "vpopcnt"),
        ("vpopcnt", "obs_solve", "avx512"),
        ("avx512", "counts", "avx512"),
        ("portable", "bytes", "portable"),
    ],
)
def test_which_instruction_sets_have_a_kernel(isa: str, stem: str, kernel: str) -> None:
    assert kernel_of(isa, stem) == kernel


def test_the_gram_names_its_way(backend: str) -> None:
    """Analog spikes are multiplied as floats, and binary ones by a kernel for integers."""
    draws = np.random.default_rng(0).random((2, 9, 5))
    binary, analog = draws < 0.5, draws - 0.5
    names = set(sbc.available_backends())
    for spikes, kernels in ((binary, names), (analog, {f"{n} float64" for n in names})):
        with recorded_kernels() as ran:
            sbc.spike_gram(spikes, backend=backend)
        assert list(ran) == ["spike_gram"]
        assert ran["spike_gram"] in kernels


class Toy(NativeBackend):
    """Removes the smallest weights first: one op of its own, the others portable C++."""

    def obs_order(
        self,
        weight: Any,
        inverse_hessian: Any,
        num_pruned: int,
        *,
        group: Any = None,
        quota: Any = None,
    ) -> tuple[Any, Any]:
        note_kernel("obs_order", self.name)
        order = np.argsort(np.abs(weight), axis=1, kind="stable")[:, :num_pruned].astype(np.int32)
        return order, np.take_along_axis(weight**2, order, axis=1)


def test_a_backend_is_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKENDS, "toy", Toy("toy", "for this test", isa="portable"))
    assert "toy" in sbc.available_backends("cpu")
    weight = np.array([[3.0, -1.0, 2.0], [0.5, 4.0, -5.0]])
    order, loss = sbc.obs_order(weight, np.eye(3), backend="toy")
    assert order.tolist() == [[1, 2, 0], [0, 1, 2]]
    assert loss.tolist() == [[1, 4, 9], [0.25, 16, 25]]
    spikes = np.random.default_rng(0).random((2, 20, 3)) < 0.4
    out = sbc.compress_layer(weight, spikes, sparsity=0.5, backend="toy")
    assert out.backend["obs_order"] == "toy"
    assert out.backend["obs_solve"] == "portable"


# ---- the rest ----------------------------------------------------------------------------------


def test_threads_are_torchs(set_threads: Callable[[int], None]) -> None:
    for threads in (1, 2):
        set_threads(threads)
        assert thread_count() == threads
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
