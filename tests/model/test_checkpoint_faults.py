"""Checkpoints under fault: two runs at once, damage, full disks, runs that were killed."""

from __future__ import annotations

import json
import re
import resource
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels.files.atomic import write_atomic
from sbc_kernels.files.lock import FolderInUse
from sbc_kernels.model import trial
from sbc_kernels.model.checkpoint import Checkpoint, checksum
from sbc_kernels.model.journal import Journal
from sbc_kernels.model.ledger import Ledger

MARKS = {"format": "3", "model": "m", "calibration": "c", "options": "o"}


def two_layers() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48), nn.Linear(48, 10))


def data() -> list[Tensor]:
    torch.manual_seed(1)
    return [(torch.rand(4, 50, 64) < 0.2).float()]


def parameters(result: sbc.CompressedModel) -> list[Tensor]:
    return list(result.model.parameters())


def same(a: sbc.CompressedModel, b: sbc.CompressedModel) -> bool:
    return all(map(torch.equal, parameters(a), parameters(b)))


# ---- two runs ----------------------------------------------------------------------------------


def test_two_runs_with_other_options_never_mix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second starts before the first has stored a layer; later it is refused as another run."""
    started, refused = threading.Event(), threading.Event()
    store = Ledger.store

    def slow(ledger: Ledger, name: str) -> None:
        started.set()
        assert refused.wait(60)
        store(ledger, name)

    monkeypatch.setattr(Ledger, "store", slow)
    results: list[sbc.CompressedModel] = []

    def first() -> None:
        results.append(
            sbc.compress_model(
                two_layers(),
                data(),
                sparsity=0.5,
                allocation="uniform",
                checkpoint_dir=tmp_path,
            )
        )

    thread = threading.Thread(target=first)
    thread.start()
    assert started.wait(60)
    with pytest.raises(FolderInUse, match=r"checkpoint_dir is .* held by process") as error:
        sbc.compress_model(two_layers(), data(), sparsity=0.9, checkpoint_dir=tmp_path)
    assert isinstance(error.value, sbc.ParameterError)
    refused.set()
    thread.join()
    assert [round(layer.sparsity, 2) for layer in results[0].layers] == [0.5, 0.5]
    with pytest.raises(sbc.ParameterError, match="belongs to a run with another options"):
        sbc.compress_model(two_layers(), data(), sparsity=0.9, checkpoint_dir=tmp_path)


def test_calibration_that_comes_in_another_order(tmp_path: Path) -> None:
    samples = data()[0].permute(1, 0, 2)
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(
        samples,
        batch_size=25,
        shuffle=True,
        generator=generator,
        collate_fn=lambda part: torch.stack(part, 1),
    )
    checkpoint = Checkpoint(tmp_path)
    with checkpoint:
        checkpoint.open(lambda: MARKS)
        checkpoint.save("a", {}, {})
    with pytest.raises(sbc.ParameterError, match="a DataLoader that shuffles with a generator"):
        sbc.compress_model(two_layers(), loader, sparsity=0.5, checkpoint_dir=tmp_path)


def test_files_of_another_run_are_not_taken(tmp_path: Path) -> None:
    for name, sparsity in (("a", 0.5), ("b", 0.9)):
        sbc.compress_model(two_layers(), data(), sparsity=sparsity, checkpoint_dir=tmp_path / name)
    for path in (tmp_path / "a").glob("*.safetensors"):
        shutil.copy(path, tmp_path / "b")
    again = sbc.compress_model(two_layers(), data(), sparsity=0.9, checkpoint_dir=tmp_path / "b")
    assert again.resumed == 0
    assert again.sparsity == pytest.approx(0.9, abs=1e-3)
    assert sum("another run's" in line for line in again.log) == 2


# ---- damage ------------------------------------------------------------------------------------


def flipped(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-len(damaged) // 2] ^= 64
    path.write_bytes(damaged)


def tensors(
    change: Callable[[dict[str, Tensor], dict[str, Any]], Any], repaired: bool = False
) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        with safe_open(path, "pt") as file:
            held = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            about = file.metadata()
        record = json.loads(about["record"])
        change(held, record)
        about["record"] = json.dumps(record)
        if repaired:
            about["checksum"] = checksum(about["run"], about["record"], held)
        save_file(held, path, about)

    return edit


def small(held: dict[str, Tensor], _: Any) -> None:
    held["weight"] = held["weight"][:1, :1].clone()


def not_finite(held: dict[str, Tensor], _: Any) -> None:
    held["weight"][0] = torch.nan


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:99]), "header"),
    "a bit": (flipped, "checksum differs"),
    "shape": (tensors(small), "checksum differs"),
    "nan": (tensors(not_finite), "checksum differs"),
    "no weight": (tensors(lambda t, r: t.pop("weight")), "checksum differs"),
    "sparsity": (tensors(lambda t, r: r.update(sparsity=0.1)), "checksum differs"),
    "shape, repaired": (tensors(small, True), r"its weight is \[1, 1\], its record \[48, 64\]"),
    "both shapes": (
        tensors(lambda t, r: (small(t, r), r.update(shape=[1, 1])), True),
        r"'0.weight' is torch.float32 \[1, 1\], in the model torch.float32 \[48, 64\]",
    ),
    "nan, repaired": (tensors(not_finite, True), "'0.weight' has values that are not finite"),
    "no weight, repaired": (tensors(lambda t, r: t.pop("weight"), True), "weight"),
    "mask": (
        tensors(lambda t, r: t["mask"].logical_not_(), True),
        "its weight is not what its mask and codes say",
    ),
    "dtype": (tensors(lambda t, r: t.update(weight=t["weight"].half()), True), "torch.float16"),
    "a record's type": (tensors(lambda t, r: r.update(sparsity="much"), True), "sparsity of a"),
    "another name": (tensors(lambda t, r: r.update(name="1"), True), "it holds '1'"),
    "an entry of none": (tensors(lambda t, r: r.update(entries=["x"]), True), "x"),
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, sbc.CompressedModel]:
    folder = tmp_path_factory.mktemp("finished")
    return folder, sbc.compress_model(two_layers(), data(), sparsity=0.5, checkpoint_dir=folder)


def file_of(folder: Path, layer: str) -> Path:
    checkpoint = Checkpoint(folder)
    return checkpoint._path(layer)


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_and_the_layer_computed_again(
    damage: str, finished: tuple[Path, sbc.CompressedModel], tmp_path: Path
) -> None:
    folder, whole = tmp_path / "copy", finished[1]
    shutil.copytree(finished[0], folder)
    edit, reason = DAMAGE[damage]
    edit(file_of(folder, "0"))
    again = sbc.compress_model(two_layers(), data(), sparsity=0.5, checkpoint_dir=folder)
    assert same(again, whole)
    assert again.resumed == 1
    (line,) = [line for line in again.log if "is damaged" in line]
    assert line.startswith(f"{file_of(folder, '0')} of '0' is damaged (")
    assert re.search(reason, line), line
    last = sbc.compress_model(two_layers(), data(), sparsity=0.5, checkpoint_dir=folder)
    assert last.resumed == 2
    assert not [line for line in last.log if "damaged" in line]


def test_any_flipped_bit_is_found(
    finished: tuple[Path, sbc.CompressedModel], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    modules = dict(two_layers().named_modules())

    def tensor_of(entry: str) -> Tensor:
        name, _, field = entry.rpartition(".")
        found: Tensor = getattr(modules[name], field)
        return found

    path = file_of(folder, "1")
    data_of_file = path.read_bytes()
    marks = json.loads((folder / "run.json").read_text())
    marks.pop("checksum")
    with Checkpoint(folder) as checkpoint:
        checkpoint.open(lambda: marks)
        assert checkpoint.load_layer("1", tensor_of) is not None
        places = [*range(0, len(data_of_file), 13), *range(0, 600, 3)]
        for count, at in enumerate(places, start=1):
            damaged = bytearray(data_of_file)
            damaged[at] ^= 1 << at % 8
            path.write_bytes(damaged)
            if checkpoint.load_layer("1", tensor_of) is not None:  # a blank of the header
                assert data_of_file[at : at + 1] == b" "
                checkpoint.notes.append("")
            assert len(checkpoint.notes) == count
        path.write_bytes(data_of_file)
    head = folder / "run.json"
    text = head.read_bytes()
    for at in range(0, len(text), 3):
        head.write_bytes(text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :])
        with Checkpoint(folder) as checkpoint:
            try:
                checkpoint.open(lambda: marks)
            except sbc.ParameterError as error:
                assert error.parameter == "checkpoint_dir"  # noqa: PT017 - or it is no error
            else:
                assert text[at : at + 1].isspace()


# ---- killed, and full disks --------------------------------------------------------------------


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    sbc.compress_model(two_layers(), data(), sparsity=0.5, checkpoint_dir=tmp_path)
    layer = next(tmp_path.glob("*.safetensors")).name
    for name in (f".{layer}.{'0af' * 5}0.tmp", f".run.json.{'1' * 16}.tmp", ".mine", "notes.tmp"):
        (tmp_path / name).write_text("half")
    again = sbc.compress_model(two_layers(), data(), sparsity=0.5, checkpoint_dir=tmp_path)
    assert again.resumed == 2
    assert {p.name for p in tmp_path.iterdir() if "tmp" in p.name} == {"notes.tmp"}
    assert (tmp_path / ".mine").exists()


def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path: Path) -> None:
    """The limit on the size of files stands in for the disk."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = tmp_path / "old"
    write_atomic(old, b"as it was")
    folder = tmp_path / "run"
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limit[1]))
        with pytest.raises(OSError, match=rf"\[Errno 27\] File too large: '{old}'"):
            write_atomic(old, bytes(5000))
        with pytest.raises(OSError, match=rf"too large: '{folder}/[0-9a-f]+\.safetensors'"):
            sbc.compress_model(two_layers(), data(), sparsity=0.5, checkpoint_dir=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert old.read_bytes() == b"as it was"
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["old"]
    assert sorted(p.name for p in folder.iterdir()) == [".run.lock", "run.json"]
    assert (folder / ".run.lock").read_text() == ""
    result = sbc.compress_model(two_layers(), data(), sparsity=0.5, checkpoint_dir=folder)
    assert result.resumed == 0


def test_measured_trials_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its trials, a run measures each of them once in all, with the same result."""
    options: dict[str, Any] = {"sparsity": 0.7, "allocation": "measured"}
    error_of = trial.RunTrial._error
    measured = 0

    def counted(self: trial.RunTrial, model: nn.Module) -> float:
        nonlocal measured
        if measured == 20:
            measured += 1
            raise KeyboardInterrupt
        measured += 1
        return error_of(self, model)

    whole = sbc.compress_model(two_layers(), data(), **options)
    monkeypatch.setattr(trial.RunTrial, "_error", counted)
    with pytest.raises(KeyboardInterrupt):
        sbc.compress_model(two_layers(), data(), checkpoint_dir=tmp_path, **options)
    with (tmp_path / "trials.jsonl").open("ab") as file:
        file.write(b'["torn')
    result = sbc.compress_model(two_layers(), data(), checkpoint_dir=tmp_path, **options)
    assert same(result, whole)
    assert result.allocation == whole.allocation
    assert result.log == whole.log
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    assert len({json.loads(line)[0] for line in lines}) == len(lines) == measured - 1


def test_a_journals_damage_is_told(tmp_path: Path) -> None:
    path, told = tmp_path / "trials.jsonl", []
    journal = Journal(path, "run", told.append)
    for key in ("a", "b", "c"):
        assert journal.known([key], lambda: 0.1) == 0.1
    text = path.read_bytes()
    for at in range(0, len(text), 2):
        for damaged in (text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :], text[:at]):
            path.write_bytes(damaged)
            again = Journal(path, "run", told.append)
            assert {again.known([key], lambda: 0.1) for key in "abc"} == {0.1}
    assert told
    assert all("of trials.jsonl is damaged" in line for line in told)
    told.clear()
    path.write_bytes(text)
    assert Journal(path, "another", told.append).known(["a"], lambda: 0.5) == 0.5
    assert len(told) == 3


# ---- tensors of any kind -----------------------------------------------------------------------


def test_buffers_of_any_stride(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(6, 4))
    net.register_buffer("gain", torch.arange(4.0)[1::2][:1])  # one value, stride 2
    net.register_buffer("turned", torch.arange(6.0).view(2, 3).T)
    net.register_buffer("wide", torch.ones(1).expand(5))
    net.register_buffer("conjugate", torch.ones(2, dtype=torch.complex64).conj())
    net.register_buffer("sparse", torch.eye(3).to_sparse())
    torch.manual_seed(0)
    spikes = (torch.rand(4, 10, 6) < 0.5).float()
    for resumed in (0, 1):
        result = sbc.compress_model(net, spikes, sparsity=0.5, checkpoint_dir=tmp_path)
        assert result.resumed == resumed
    net.gain[0] = 5.0
    with pytest.raises(sbc.ParameterError, match="another model"):
        sbc.compress_model(net, spikes, sparsity=0.5, checkpoint_dir=tmp_path)
