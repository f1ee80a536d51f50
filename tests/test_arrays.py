"""Arrays of any framework in, the same kind out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import spike_train

import sbc_kernels as sbc
from sbc_kernels.arrays import cast_like, require_same_kind, require_symmetric, to_numpy

SPIKES = spike_train(np.random.default_rng(0), 4, 30, 12)
WEIGHT = np.random.default_rng(1).standard_normal((5, 12)).astype(np.float32)


class Exporter:
    """Nothing but DLPack, as old as can be: no max_version, no shape, no dtype."""

    def __init__(self, array: np.ndarray, device: int = 1) -> None:
        self._array, self._device = array, device

    def __dlpack__(self, stream: Any = None) -> Any:
        return self._array.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device, 0


class Versioned(Exporter):
    """DLPack 1, with its keywords."""

    def __dlpack__(self, *, stream: Any = None, max_version: Any = None, **rest: Any) -> Any:
        return self._array.__dlpack__(max_version=max_version)


@pytest.mark.parametrize("exporter", [Exporter, Versioned])
def test_dlpack_objects(exporter: type[Exporter]) -> None:
    wanted = sbc.compress_layer(WEIGHT, SPIKES, sparsity=0.5, bits=4)
    out = sbc.compress_layer(exporter(WEIGHT), exporter(SPIKES), sparsity=0.5, bits=4)
    assert isinstance(out.weight, np.ndarray)
    assert np.array_equal(out.weight, wanted.weight)
    assert np.array_equal(out.codes, wanted.codes)
    gram = sbc.spike_gram(exporter(SPIKES), sbc.IF())
    assert np.array_equal(gram, sbc.spike_gram(SPIKES, sbc.IF()))
    G = np.eye(12, dtype=np.float32)
    order, _ = sbc.obs_order(exporter(WEIGHT), exporter(G))
    assert np.array_equal(order, sbc.obs_order(WEIGHT, G)[0])


def test_dlpack_strides_and_torch_storage() -> None:
    """A torch tensor behind a plain exporter, transposed."""

    class Foreign(Exporter):
        def __dlpack__(self, stream: Any = None) -> Any:
            return torch.tensor(SPIKES.transpose(2, 0, 1).copy()).permute(1, 2, 0).__dlpack__()

    gram = sbc.spike_gram(Foreign(SPIKES), sbc.IF())
    assert np.array_equal(gram, sbc.spike_gram(SPIKES, sbc.IF()))


@pytest.mark.parametrize("device", [2, 10, 13])
def test_dlpack_of_another_device(device: int) -> None:
    with pytest.raises(ValueError, match=f"W lies on DLPack device type {device}; accepted is CPU"):
        sbc.compress_layer(Exporter(WEIGHT, device), SPIKES)


class Namespaced(Exporter):
    """An array of an array-API framework: answers come back through its asarray."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(np.asarray(array))
        self.dtype = self._array.dtype

    def __array_namespace__(self, **_: Any) -> Any:
        class Namespace:
            asarray = staticmethod(Namespaced)

        return Namespace

    def astype(self, dtype: Any) -> Namespaced:
        return Namespaced(self._array.astype(dtype))


def test_array_api_objects_come_back_as_they_came() -> None:
    out = sbc.compress_layer(Namespaced(WEIGHT), Namespaced(SPIKES), bits=4)
    wanted = sbc.compress_layer(WEIGHT, SPIKES, bits=4)
    for name in ("weight", "codes", "scale", "zero_point", "loss"):
        part = getattr(out, name)
        assert isinstance(part, Namespaced)
        assert np.array_equal(part._array, getattr(wanted, name))
    assert out.weight.dtype == np.float32


def test_lists() -> None:
    out = sbc.compress_layer(WEIGHT.tolist(), SPIKES.tolist(), sparsity=0.5)
    wanted = sbc.compress_layer(WEIGHT.astype(float), SPIKES, sparsity=0.5)
    assert np.array_equal(out.weight, wanted.weight)
    mixed = sbc.compress_layer(torch.tensor(WEIGHT).double(), SPIKES.tolist(), sparsity=0.5)
    assert np.array_equal(mixed.weight.numpy(), wanted.weight)


def test_subclasses_are_of_their_framework() -> None:
    class Labelled(torch.Tensor):
        pass

    class Units(np.ndarray):
        pass

    parameter = torch.nn.Parameter(torch.tensor(WEIGHT))
    wanted = sbc.compress_layer(WEIGHT, SPIKES, sparsity=0.5).weight
    labelled = sbc.compress_layer(
        parameter, torch.tensor(SPIKES).as_subclass(Labelled), sparsity=0.5
    )
    assert np.array_equal(labelled.weight.numpy(), wanted)
    units = sbc.compress_layer(WEIGHT, SPIKES.view(Units), sparsity=0.5)
    assert np.array_equal(units.weight, wanted)


@pytest.mark.parametrize(
    ("dtype", "inside"),
    [
        (np.float16, np.float32),
        (np.float32, np.float32),
        (np.float64, np.float64),
        (np.longdouble, np.float64),
        (np.int16, np.int16),
        (np.bool_, np.bool_),
        (">f4", np.float32),
        (">i2", np.int16),
    ],
)
def test_numpy_dtypes_inside(dtype: Any, inside: Any) -> None:
    values, restore = to_numpy(np.ones((2, 3), dtype=dtype), "x")
    assert values.dtype == inside
    assert values.dtype.isnative
    assert (values == 1).all()
    assert restore(values) is values


@pytest.mark.parametrize(
    ("dtype", "inside"),
    [
        (torch.float16, np.float32),
        (torch.bfloat16, np.float32),
        (torch.float32, np.float32),
        (torch.float64, np.float64),
        (torch.uint8, np.uint8),
        (torch.bool, np.bool_),
    ],
)
def test_torch_dtypes_inside(dtype: torch.dtype, inside: Any) -> None:
    tensor = torch.ones(2, 3).to(dtype)
    values, restore = to_numpy(tensor, "x")
    assert values.dtype == inside
    back = cast_like(restore(values), tensor)
    assert back.dtype == dtype
    assert torch.equal(back, tensor)


def test_no_copy_where_none_is_needed() -> None:
    for array in (WEIGHT, SPIKES):
        assert np.shares_memory(to_numpy(array, "x")[0], array)
    tensor = torch.tensor(WEIGHT, requires_grad=True)
    assert to_numpy(tensor, "x")[0].ctypes.data == tensor.data_ptr()


def test_restored_tensors_are_their_own() -> None:
    _, restore = to_numpy(torch.ones(3), "x")
    strided = np.arange(6.0)[::-2]
    tensor = restore(strided)
    assert tensor.tolist() == [5, 3, 1]


def test_kinds() -> None:
    require_same_kind(WEIGHT, SPIKES, "a", "b")
    require_same_kind(torch.ones(1), torch.nn.Parameter(torch.ones(1)), "a", "b")
    require_same_kind([1.0], SPIKES, "a", "b")
    for first, second in ((WEIGHT, torch.ones(1)), (torch.ones(1), Exporter(WEIGHT))):
        with pytest.raises(
            TypeError, match=r"a is a \w+ array and b a \w+ array; accepted are two"
        ):
            require_same_kind(first, second, "a", "b")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_symmetry_is_up_to_rounding(dtype: Any) -> None:
    eps = np.finfo(dtype).eps
    for d in (0, 1, 2, 17, 200):
        rng = np.random.default_rng(d)
        matrix = rng.standard_normal((d, d))
        matrix = (matrix + matrix.T).astype(dtype)
        require_symmetric(matrix, "H")
        if d < 2:
            continue
        largest = np.abs(matrix).max()
        for row, column in ((0, d - 1), (d - 1, 0), (d // 2, d // 2 - 1)):
            close, far = matrix.copy(), matrix.copy()
            close[row, column] += 100 * eps * largest
            far[row, column] += 1e5 * eps * largest
            require_symmetric(close, "H")
            with pytest.raises(ValueError, match="H is not symmetric"):
                require_symmetric(far, "H")
