"""The demonstration: camera, data, checkpoint, the run from end to end, and its command line."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import write_idx
from typer.testing import CliRunner

from sbc_kernels import LIF, cli
from sbc_kernels.demo import run as demo_run
from sbc_kernels.demo.data import Dataset, digits, fashion_mnist, upsample
from sbc_kernels.demo.events import CONTRAST, DARK, project, saccade_events, saccade_path
from sbc_kernels.demo.network import TAU, Network, as_input, lif, measure
from sbc_kernels.demo.run import SETTINGS, Setting, run_demo
from sbc_kernels.demo.train import RECIPES, SHIPPED, load_checkpoint, save_checkpoint, train
from sbc_kernels.files import load_packed, read_packed
from sbc_kernels.metrics import connection_sparsity

TRAIN_IMAGES = "train-images-idx3-ubyte"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return digits()


# ---- the event camera --------------------------------------------------------------------------


def test_path_is_three_closed_saccades_inside_the_sensor() -> None:
    path = saccade_path(30)
    np.testing.assert_array_equal(path[[0, 10, 20, 30]], [[0, 0], [4, 2], [0, 4], [0, 0]])
    assert path.min() >= 0
    assert path.max() <= 4


def test_projection_moves_and_keeps_the_light() -> None:
    image = np.random.default_rng(0).random((1, 5, 7)).astype(np.float32)
    whole = project(image, np.array([4.0, 2.0]))
    np.testing.assert_array_equal(whole[:, 4:, 2:9], image)
    for offset in saccade_path(30):
        np.testing.assert_allclose(project(image, offset).sum(), image.sum(), rtol=1e-5)


def test_events_say_what_changed() -> None:
    dot = np.zeros((1, 3, 3), np.float32)
    dot[0, 1, 1] = 1
    events = saccade_events(dot, num_steps=30)
    assert events.shape == (30, 1, 2, 7, 7)
    assert events.dtype == np.uint8
    assert set(np.unique(events)) == {0, 1}
    on, off = events[:10, 0].sum(axis=0).astype(int)  # the first saccade: (0, 0) to (4, 2)
    assert on[5, 3] > 0  # the dot arrives here
    assert off[1, 1] > 0  # and leaves here
    assert on[1, 1] == 0
    assert not events[:, :, :, 0, 5:].any()  # where it never comes nothing happens
    assert not saccade_events(np.zeros((2, 3, 3), np.float32)).any()
    assert not saccade_events(dot * np.float32(DARK * np.expm1(CONTRAST) * 0.99)).any()


def test_events_are_a_function_of_each_image_alone(dataset: Dataset) -> None:
    images = dataset.test_images[:8]
    events = saccade_events(images)
    np.testing.assert_array_equal(events, saccade_events(images.copy()))
    np.testing.assert_array_equal(events[:, 3:5], saccade_events(images[3:5]))
    assert 0.05 < events.mean() < 0.3


# ---- data --------------------------------------------------------------------------------------


def test_digits_split(dataset: Dataset) -> None:
    assert dataset.train_images.shape == (1200, 16, 16)
    assert dataset.test_images.shape == (597, 16, 16)
    assert demo_run.NUM_CALIBRATION_SAMPLES <= 300
    seen = {image.tobytes() for image in dataset.train_images}
    assert not seen & {image.tobytes() for image in dataset.test_images}
    assert dataset.train_images.min() == 0
    assert dataset.train_images.max() == 1
    assert dataset.fingerprint() == digits().fingerprint()
    other = replace(dataset, train_images=dataset.train_images[::-1])
    assert dataset.fingerprint() != other.fingerprint()


def test_upsample_is_linear_between_pixel_centres() -> None:
    image = np.array([[[0.0, 1.0, 0.5]]], np.float32)
    expected = np.array([[[0, 0.25, 0.75, 0.875, 0.625, 0.5]]], np.float32)
    np.testing.assert_array_equal(upsample(image, 2), expected)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    """A few images of two kinds, bright at the top or at the bottom; the labels gzipped."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "idx"
    folder.mkdir()
    for part, count in (("train", 40), ("t10k", 16)):
        labels = (np.arange(count) % 2).astype(np.uint8)
        images = rng.integers(0, 60, (count, 10, 8)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:5] += np.uint8(190 * label)
            image[5:] += np.uint8(190 * (1 - label))
        write_idx(folder / f"{part}-images-idx3-ubyte", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


def test_idx_files(idx_folder: Path) -> None:
    data = fashion_mnist(idx_folder)
    assert data.classes == ("0", "1")
    assert data.train_images.shape == (40, 10, 8)
    assert data.test_images.dtype == np.float32
    raw = np.frombuffer((idx_folder / TRAIN_IMAGES).read_bytes(), np.uint8, offset=16)
    np.testing.assert_array_equal(np.rint(data.train_images.ravel() * 255), raw)
    np.testing.assert_array_equal(data.test_labels, np.arange(16) % 2)


def test_idx_errors_name_file_and_fault(idx_folder: Path) -> None:
    images = idx_folder / TRAIN_IMAGES
    whole = images.read_bytes()
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        fashion_mnist(idx_folder / "nowhere")
    for data, fault in (
        (whole[:-1], r"says \[40, 10, 8\] and holds 3199 bytes, not 3200"),
        (whole + b"x", "holds 3201 bytes"),
        (whole[:9], "accepted is an IDX file of bytes with 3 axes, which begins with 00000803"),
        (b"PNG" + whole, "begins with 504e4700"),
        (b"", "begins with nothing"),
    ):
        images.write_bytes(data)
        with pytest.raises(ValueError, match=fault):
            fashion_mnist(idx_folder)
    images.unlink()
    with pytest.raises(FileNotFoundError, match=r"no train-images-idx3-ubyte or .*holds t10k-"):
        fashion_mnist(idx_folder)
    zipped = images.with_name(f"{images.name}.gz")
    for data in (b"not gzip", gzip.compress(whole)[:-9]):
        zipped.write_bytes(data)
        with pytest.raises(ValueError, match="is not a whole gzip file"):
            fashion_mnist(idx_folder)
    write_idx(images, np.zeros((39, 10, 8), np.uint8))
    with pytest.raises(ValueError, match="39 images for 40 labels"):
        fashion_mnist(idx_folder)


# ---- the network -------------------------------------------------------------------------------


def test_neuron_is_the_one_that_compression_is_told_about() -> None:
    """Below threshold the membrane is the impulse response's convolution; spikes reset to 0."""
    assert demo_run.SBC["neuron"] == LIF(TAU)
    steps = 8
    k = LIF(TAU).impulse_response(steps)
    for current in (np.array([1.9, 0, 0, 0.6, 0, 1.2, 0, 0]), np.full(8, 1.3)):
        v, expected, last = 0.0, [], 0
        for t in range(steps):
            v = sum(k[t - s] * current[s] for s in range(last, t + 1))  # since the last reset
            expected.append(v >= 1)
            last = t + 1 if v >= 1 else last
        spikes = lif(torch.tensor(current))
        np.testing.assert_array_equal(spikes, np.array(expected, float))
    assert lif(torch.full((8,), 1.3)).sum() > 0


def test_spikes_are_exactly_binary_and_have_a_gradient() -> None:
    current = (3 * torch.randn(10, 50, generator=torch.Generator().manual_seed(0))).requires_grad_()
    spikes = lif(current)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    spikes.sum().backward()
    assert current.grad is not None
    assert bool((current.grad[-1] > 0).all())
    u = current.detach()[:1] / TAU - 1  # after one step from rest
    torch.testing.assert_close(
        torch.autograd.grad(lif(current[:1]).sum(), current)[0][:1],
        1 / (1 + (torch.pi * u) ** 2) / TAU,
    )


# ---- the checkpoint ----------------------------------------------------------------------------


def test_shipped_checkpoint(dataset: Dataset) -> None:
    assert SHIPPED.stat().st_size < 1_000_000
    network = load_checkpoint(SHIPPED, dataset)
    events = saccade_events(dataset.test_images)
    assert measure(network, events, dataset.test_labels).accuracy >= 95
    weights, about = read_packed(SHIPPED)
    assert {name: (w.shape, str(w.dtype)) for name, w in weights.items()} == {  # type: ignore[union-attr]
        "fc1": ((128, 800), "float32"),
        "fc2": ((10, 128), "float32"),
    }
    assert about["recipe"] == asdict(RECIPES["digits"])  # what --train would do today


def test_training_makes_the_same_kind_of_checkpoint(tmp_path: Path, dataset: Dataset) -> None:
    recipe = replace(RECIPES["digits"], epochs=1)
    steps: list[int] = []
    first = train(dataset, recipe, lambda: steps.append(1))
    again = train(dataset, recipe, lambda: None)
    assert len(steps) == 1
    assert torch.equal(first.fc1, again.fc1)
    assert torch.equal(first.fc2, again.fc2)
    path = tmp_path / "digits.safetensors"
    save_checkpoint(path, first, dataset, recipe)
    (made, about), (shipped, shipped_about) = read_packed(path), read_packed(SHIPPED)
    assert {n: w.shape for n, w in made.items()} == {n: w.shape for n, w in shipped.items()}  # type: ignore[union-attr]
    assert about["split"] == shipped_about["split"]
    assert about["recipe"] | {"epochs": 0} == shipped_about["recipe"] | {"epochs": 0}
    assert torch.equal(load_checkpoint(path, dataset).fc1, first.fc1)


def test_checkpoint_of_another_split_is_refused(dataset: Dataset) -> None:
    other = replace(dataset, train_labels=np.roll(dataset.train_labels, 1))
    with pytest.raises(ValueError, match=r"digits\.safetensors was trained on another split"):
        load_checkpoint(SHIPPED, other)


# ---- from end to end ---------------------------------------------------------------------------

ROW_KEYS = ["method", "sparsity", "bits", "accuracy", "synops", "bytes", "seconds"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The rows that the claims below are about, on all test samples."""
    out = tmp_path_factory.mktemp("demo") / "deep" / "sbc-demo"
    rows = [s for s in SETTINGS if s.sparsity in (None, 0.97) and s.bits in (None, 2)]
    return out, run_demo(out, quiet=True, settings=rows)


def row(report: dict[str, Any], method: str, **level: float) -> dict[str, Any]:
    (found,) = [
        r
        for r in report["rows"]
        if r["method"] == method and all(r[k] == v for k, v in level.items())
    ]
    return dict(found)


def test_settings_are_all_that_was_asked_for() -> None:
    asked = {(m, s, None) for s in (0.9, 0.97, 0.99) for m in ("magnitude", "exactobs", "sbc")}
    asked |= {(m, None, b) for b in (4, 3, 2) for m in ("rtn", "gptq", "sbc")}
    assert {(s.method, s.sparsity, s.bits) for s in SETTINGS} == asked
    assert len(SETTINGS) == len({s.label() for s in SETTINGS}) == 18


def test_report(finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    assert json.loads((out / "report.json").read_text()) == report
    assert list(report) == ["dense", "rows"]
    assert list(report["dense"]) == ["accuracy", "synops", "bytes"]
    assert len(report["rows"]) == 6
    for entry in report["rows"]:
        assert list(entry) == ROW_KEYS
        assert (entry["sparsity"] is None) != (entry["bits"] is None)
        assert 0 <= entry["accuracy"] <= 100
        assert entry["seconds"] > 0
        assert 0 < entry["bytes"] < report["dense"]["bytes"]


def test_sbc_keeps_what_magnitude_and_rounding_lose(
    finished: tuple[Path, dict[str, Any]],
) -> None:
    _, report = finished
    sbc, magnitude = (row(report, m, sparsity=0.97) for m in ("sbc", "magnitude"))
    assert sbc["accuracy"] >= magnitude["accuracy"] + 20
    assert sbc["accuracy"] >= report["dense"]["accuracy"] - 3
    assert sbc["synops"] < 0.1 * report["dense"]["synops"]
    assert sbc["bytes"] < 0.06 * report["dense"]["bytes"]
    sbc, rtn = (row(report, m, bits=2) for m in ("sbc", "rtn"))
    assert sbc["accuracy"] > rtn["accuracy"]
    assert sbc["accuracy"] >= report["dense"]["accuracy"] - 3
    assert sbc["bytes"] < report["dense"]["bytes"] / 14


def test_models_are_what_the_report_measured(
    finished: tuple[Path, dict[str, Any]], dataset: Dataset
) -> None:
    out, report = finished
    assert sorted(p.name for p in out.iterdir()) == ["models", "report.json", "sbc-demo.png"]
    assert (out / "sbc-demo.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    files = {p.name: p.stat().st_size for p in (out / "models").iterdir()}
    assert files.pop("dense.safetensors") == report["dense"]["bytes"]
    assert len(files) == len(report["rows"])
    path = out / "models" / "sbc-97-percent.safetensors"
    entry = row(report, "sbc", sparsity=0.97)
    assert files[path.name] == entry["bytes"]
    weights = {name: torch.from_numpy(w) for name, w in load_packed(path).items()}
    assert connection_sparsity(*weights.values()) == pytest.approx(0.97, abs=1e-3)
    # Accuracy and operations once more, from the definitions.
    events = as_input(saccade_events(dataset.test_images))
    hidden, scores = Network(**weights).run(events)
    right = scores.argmax(dim=1).numpy() == dataset.test_labels
    assert entry["accuracy"] == round(100 * float(right.mean()), 2)
    operations = sum(
        float((spikes.double() @ (weights[name] != 0).double().T).sum())
        for name, spikes in (("fc1", events), ("fc2", hidden))
    )
    assert entry["synops"] == round(operations / len(right), 1)


def test_other_data_trains_its_own_network(idx_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = run_demo(
        out,
        data="fashion-mnist",
        data_dir=idx_folder,
        quiet=True,
        settings=[Setting("sbc", sparsity=0.9), Setting("rtn", bits=3, options={"method": "rtn"})],
        recipe=replace(
            RECIPES["fashion-mnist"],
            epochs=20,
            d_hidden=32,
            batch_size=8,
            l1_fc1=0.0,
            l1_fc2=0.0,
            jitter=0.0,
        ),
        limit=10,
    )
    assert report["dense"]["accuracy"] == 100  # top or bottom is not hard to tell
    assert [r["method"] for r in report["rows"]] == ["sbc", "rtn"]
    assert sorted(p.name for p in out.iterdir()) == [
        "fashion-mnist.safetensors",
        "models",
        "report.json",
        "sbc-demo.png",
    ]


# ---- the command line --------------------------------------------------------------------------


def sbc(*arguments: str) -> Any:
    return CliRunner().invoke(cli.app, list(arguments))


def test_cli_passes_its_options_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(demo_run, "run_demo", lambda *args, **named: calls.append((args, named)))
    assert sbc("demo", "--out", str(tmp_path), "--train", "--quiet").exit_code == 0
    named = {"data": "digits", "data_dir": None, "retrain": True, "quiet": True}
    assert calls == [((tmp_path,), named)]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("broken file"), 1, "sbc: broken file"),
        (OSError("disk full"), 1, "sbc: disk full"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_cli_exit_codes(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(demo_run, "run_demo", fail)
    result = sbc("demo")
    assert result.exit_code == code
    assert message in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("demo", "--data", "fashion-mnist"), "needs the folder of the IDX files"),
        (("demo", "--data-dir", "."), "come with scikit-learn"),
        (("demo", "--data", "cifar"), "cifar"),
        (("demo", "--bogus"), "--bogus"),
        (("nothing",), "nothing"),
    ],
    ids=str,
)
def test_cli_bad_use(arguments: tuple[str, ...], message: str) -> None:
    result = sbc(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.output.replace("│", " ").split())  # it comes in a box


def test_cli_bad_folder(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    result = sbc("demo", "--data", "fashion-mnist", "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    text = " ".join(result.output.replace("│", " ").split())  # the message comes in a box
    assert "no train-images-idx3-ubyte" in text
    assert "readme.txt" in text


def test_cli_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "find_spec", lambda name: None if name == "sklearn" else object())
    result = sbc("demo")
    assert result.exit_code == 1
    assert result.output.strip() == (
        "sbc: the demo needs scikit-learn, not installed here: pip install 'sbc-kernels[demo]'"
    )


def test_cli_info() -> None:
    result = sbc("info")
    assert result.exit_code == 0
    for name in ("sbc-kernels", "instruction set", "threads", "cuda"):
        assert name in result.output
