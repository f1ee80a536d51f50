"""Calibration data on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run, said
from helpers import write_idx

from sbc_kernels.cli.data import Cut, load_data

# ---- data --------------------------------------------------------------------------------------


def batches_of(text: str, **cut: Any) -> list[Any]:
    data = load_data(text, Cut(**cut), "--calibration")
    found = list(data)
    for one, other in zip(found, data, strict=True):  # a second pass gives the same
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    return found


def test_one_file_is_cut_along_the_samples(place: Path) -> None:
    x, y = (np.load("cal.npz")[name] for name in "xy")
    np.save("cal.npy", x)
    (single,) = batches_of("cal.npz")
    assert single[0].dtype == torch.float32
    np.testing.assert_array_equal(single[0], x)
    np.testing.assert_array_equal(single[1], y)
    cut = batches_of("cal.npz", batch_size=8, samples=20)
    assert [len(labels) for _, labels in cut] == [8, 8, 4]
    np.testing.assert_array_equal(torch.cat([inputs for inputs, _ in cut], 1), x[:, :20])
    np.testing.assert_array_equal(torch.cat([labels for _, labels in cut]), y[:20])
    plain = batches_of("cal.npy", batch_size=3, batch_axis=0, dtype="keep")
    assert [tuple(inputs.shape) for inputs in plain] == [(3, 30, 20)] * 2
    assert plain[0].dtype == torch.bool
    static = batches_of("cal.npy", time_steps=2, dtype="float64")
    assert [tuple(inputs.shape) for inputs in static] == [(2, 6, 30, 20)]
    np.testing.assert_array_equal(static[0][1], x)
    assert [x.shape[1] for x in batches_of("cal.npy", samples=29, batch_size=29)] == [29]


def test_a_folders_files_are_batches(place: Path) -> None:
    Path("f").mkdir()
    rng = np.random.default_rng(0)
    arrays = [rng.random((4, count, 3)) for count in (70, 2, 5)]
    np.savez("f/a.npz", x=arrays[0])
    np.save("f/b.npy", arrays[1])
    np.savez("f/c.npz", other=arrays[2].astype(">f8"))
    Path("f/readme.txt").write_text("hello")
    found = batches_of("f", dtype="keep")
    for batch, array in zip(found, arrays, strict=True):
        np.testing.assert_array_equal(batch, array)
    assert [b.shape[1] for b in batches_of("f", batch_size=60)] == [60, 10, 2, 5]
    assert [b.shape[1] for b in batches_of("f", samples=71)] == [70, 1]


def test_idx_images(place: Path) -> None:
    Path("idx").mkdir()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (70, 5, 4)).astype(np.uint8)
    labels = rng.integers(0, 10, 70).astype(np.uint8)
    write_idx(Path("idx/t10k-images-idx3-ubyte.gz"), images)
    (first, second) = batches_of("idx")  # 64 and 6
    assert isinstance(first, torch.Tensor)  # there are no labels
    write_idx(Path("idx/t10k-labels-idx1-ubyte"), labels)
    for text in ("idx", "idx/t10k-images-idx3-ubyte.gz"):
        first, second = batches_of(text, time_steps=3)
        assert first[0].shape == (3, 64, 1, 5, 4)
        assert first[0].dtype == torch.float32
        np.testing.assert_array_equal(np.rint(255 * first[0][2, :, 0].numpy()), images[:64])
        assert float(first[0].max()) <= 1
        np.testing.assert_array_equal(second[1], labels[64:])
    write_idx(Path("idx/train-images-idx3-ubyte"), images)
    with pytest.raises(Exception, match="name one of them, such as idx/train-images"):
        batches_of("idx")


def test_loaders(place: Path) -> None:
    expected = batches_of("net.py:listed")
    torch.testing.assert_close(batches_of("net.py:batches"), expected, rtol=0, atol=0)
    assert len(expected) == 3
    Path("mod.py").write_text("import torch\nx = torch.ones(2, 3)\ndef one():\n    return x\n")
    assert torch.equal(batches_of("mod:one")[0], torch.ones(2, 3))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.array(["a", "b"])}, "holds an array of <U1"),
        ({"x": np.array([[1, None]], dtype=object)}, "cannot be used"),
        ({"x": np.zeros((3, 0, 2))}, "holds no samples"),
        ({"x": np.zeros(3)}, "no axis 1 of samples; give it as --batch-axis"),
        ({"y": np.zeros(3, int)}, "it holds y; accepted are inputs as the array x"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(2, int)}, "labels int64 of shape [2] for 3 samples"),
        ({"x": np.zeros((2, 3)), "y": np.zeros(3)}, "labels float64 of shape [3]"),
        ({}, "it holds nothing"),
    ],
    ids=str,
)
def test_arrays_that_are_no_batches(place: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez("d.npz", **arrays)
    result = run("inspect", "net.py:make", "--calibration", "d.npz")
    assert result.exit_code == 2
    assert message in said(result)


def test_files_that_hold_no_batches(place: Path) -> None:
    Path("empty").mkdir()
    Path("a.txt").write_text("x")
    Path("half.npz").write_bytes(Path("cal.npz").read_bytes()[:100])
    Path("no.npy").write_bytes(b"")
    Path("images-idx3-ubyte").write_bytes(b"PNG")
    for name in ("empty", "a.txt", "half.npz", "no.npy", "images-idx3-ubyte"):
        result = run("inspect", "net.py:make", "--calibration", name)
        assert result.exit_code == 2, result.output
        assert name in said(result)


# ---- the shell ---------------------------------------------------------------------------------


def test_a_loader_is_not_cut(place: Path) -> None:
    """What cannot be applied is refused, not passed over."""
    loader = ("net.py:make", "--calibration", "net.py:batches", "--out", "o")
    for option in (
        ("--num-calibration-samples", "3"),
        ("--batch-size", "2"),
        ("--dtype", "float64"),
    ):
        result = run("compress", *loader, *option)
        assert result.exit_code == 2, result.output
        assert f"makes its own batches; accepted with it is none of {option[0]}" in said(result)
    assert not Path("o").exists()


def test_damaged_data_is_refused_in_a_line(place: Path) -> None:
    whole = Path("cal.npz").read_bytes()
    np.save("x.npy", np.zeros((6, 30, 20), np.float32))
    array = Path("x.npy").read_bytes()
    for name, content in (
        ("cut.npz", whole[:300]),
        ("none.npz", b"PK" + bytes(300)),
        ("huge.npy", array.replace(b"(6, 30, 20)", b"(6, 9**9**9)")),
        ("open.npy", array.replace(b"(6, 30, 20)", b"((((((((((0")),
        ("odd.npy", array.replace(b"(6, 30, 20)", b"(-6, 30, 1)")),
    ):
        Path(name).write_bytes(content)
        result = run("inspect", "net.py:make", "--calibration", name)
        assert result.exit_code == 2, name
        assert f"{name} cannot be used" in said(result)
        assert "Traceback" not in result.output
