"""Reads damaged and hostile files by the thousand, in a process of its own whose memory is limited.

    python fuzz.py SCALE

Prints, as JSON, how many files of each kind were read and refused. An error of a kind that no reader
documents ends the process with its traceback; so does memory beyond the limit.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import typer
from made_up_reports import made_up
from mutations import damaged_arrays, damaged_bytes, mutated, places
from safetensors.numpy import load, save
from safetensors.torch import load as load_torch
from safetensors.torch import save as save_torch
from torch import Tensor, nn

import sbc_kernels as sbc
from sbc_kernels import cli
from sbc_kernels.cli.config import parse_toml
from sbc_kernels.cli.objects import parse_neuron
from sbc_kernels.cli.options import number_of_bytes, table
from sbc_kernels.cli.tables import render, report_parts
from sbc_kernels.files import load_packed, read_metadata
from sbc_kernels.files.footprint import footprint
from sbc_kernels.files.packed import HEADER, checksum
from sbc_kernels.model import checkpoint as checkpoints
from sbc_kernels.model.checkpoint import Checkpoint
from sbc_kernels.report.parsing import parse_report

ROOM = 256 << 20  # bytes that a reader may take beside what the process has at the start
DOCUMENTED = (TypeError, ValueError, OSError, typer.BadParameter)


def network() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(20, 12), nn.Identity(), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)
    )
    net.register_buffer("tied", net[3].bias)
    net.register_buffer("brain", torch.ones(3, dtype=torch.bfloat16))
    return net.eval()


class Tally:
    """Counts readings by kind of file and result, and notes the slowest."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.slowest = (0.0, "")

    def read(self, kind: str, reader: Callable[[], Any]) -> None:
        start = time.process_time()
        try:
            reader()
        except DOCUMENTED as error:
            if not str(error):
                raise RuntimeError(f"{kind}: an error without a message: {error!r}") from error
            self.counts[f"{kind} refused"] += 1
        else:
            self.counts[f"{kind} read"] += 1
        self.slowest = max(self.slowest, (time.process_time() - start, kind))


def repeated(times: int, seed: int) -> Any:
    return (random.Random(1000 * seed + index) for index in range(times))


# ---- packed files ------------------------------------------------------------------------------


def fuzz_packed(tally: Tally, folder: Path, scale: float) -> None:
    """A model's file: its header by structure, its arrays with the checksum repaired, its bytes."""
    torch.manual_seed(1)
    spikes = (torch.rand(4, 20, 20) < 0.4).float()
    overrides = {"3": {"bits": 3}, "5": {"bits": 2, "group_size": 4, "sparsity": None}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = sbc.compress_model(network(), [spikes], sparsity=0.6, overrides=overrides)
    result.save(whole := folder / "whole")
    data = whole.read_bytes()
    head = 8 + int.from_bytes(data[:8], "little")
    text = json.loads(data[8:head])["__metadata__"][HEADER]
    about = json.loads(text)
    about["metadata"]["report"] = {"layers": [{"name": "3"}]}  # the report has its own turn
    about["metadata"] |= {"folded": {"0": "1"}, "transposed": {"3.weight": ""}}
    short = json.dumps(about)
    where, arrays, path = places(about), load(data), folder / "packed"
    model = network()
    readers: tuple[Callable[[], Any], ...] = (
        lambda: sbc.load_compressed(path),
        lambda: load_packed(path),
        lambda: footprint(path),
        lambda: read_metadata(path),
        lambda: sbc.load_compressed(model, path),
    )

    def read(kind: str, content: bytes, draw: random.Random) -> None:
        path.write_bytes(content)
        tally.read(kind, readers[draw.choice((0, 0, 0, 1, 2, 3, 4))])

    for draw in repeated(int(3000 * scale), 1):
        changed = mutated(short, draw, where)
        read("header", save(arrays, {HEADER: json.dumps(changed)}), draw)
    for draw in repeated(int(2000 * scale), 2):
        parts = damaged_arrays(arrays, draw)
        header = json.dumps({**json.loads(short), "checksum": checksum(parts)})
        read("arrays", save(parts, {HEADER: header}), draw)
    for draw in repeated(int(1500 * scale), 3):
        read("bytes", damaged_bytes(data, draw), draw)
    for draw in repeated(int(500 * scale), 4):
        changed_text = damaged_bytes(short.encode(), draw).decode(errors="replace")
        read("header's text", save(arrays, {HEADER: changed_text}), draw)
    for deep in ("[" * 100_000, '{"a":' * 100_000, short.replace("{", "[" * 900, 1)):
        read("deep", save(arrays, {HEADER: deep}), random.Random(0))


# ---- checkpoints -------------------------------------------------------------------------------


def fuzz_checkpoint(tally: Tally, folder: Path, scale: float) -> None:
    """A layer's file, run.json, the lock and the journal: redone or refused, never anything else."""
    torch.manual_seed(1)
    spikes = (torch.rand(4, 20, 20) < 0.4).float()
    net, place = network(), folder / "checkpoint"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sbc.compress_model(net, [spikes], sparsity=0.6, bits=3, checkpoint_dir=place)
    head = place / "run.json"
    marks = json.loads(head.read_text())
    marks.pop("checksum")
    modules = dict(net.named_modules())

    def tensor_of(entry: str) -> Tensor:
        name, _, field = entry.rpartition(".")
        tensor: Tensor = getattr(modules[name], field)
        return tensor

    with Checkpoint(place) as checkpoint:
        checkpoint.open(lambda: marks)
        path = checkpoint._path("0")
        data = path.read_bytes()
        stop = 8 + int.from_bytes(data[:8], "little")
        about = json.loads(data[8:stop])["__metadata__"]
        record, arrays = about["record"], load(data)
        where = places(json.loads(record))

        def read(kind: str, content: bytes) -> None:
            path.write_bytes(content)
            told = len(checkpoint.notes)

            def layer() -> None:
                if checkpoint.load_layer("0", tensor_of) is None:
                    assert len(checkpoint.notes) == told + 1
                    raise ValueError(checkpoint.notes[-1])

            tally.read(kind, layer)

        assert checkpoint.load_layer("0", tensor_of) is not None
        for draw in repeated(int(1200 * scale), 5):
            text = record if draw.random() < 0.5 else json.dumps(mutated(record, draw, where))
            parts = arrays if text is not record else damaged_arrays(arrays, draw)
            tensors = load_torch(save(parts))
            code = checkpoints.checksum(about["run"], text, tensors)
            read("layer", save_torch(tensors, {**about, "record": text, "checksum": code}))
        for draw in repeated(int(500 * scale), 6):
            read("layer's bytes", damaged_bytes(data, draw))
        path.write_bytes(data)
    text = head.read_text()
    where = places(json.loads(text))
    lock, trials = place / ".run.lock", place / "trials.jsonl"
    for draw in repeated(int(500 * scale), 7):
        head.write_text(text)
        trials.write_bytes(b"")
        kind = draw.choice(("run.json", "lock", "trials"))
        if kind == "run.json" and draw.random() < 0.5:
            head.write_text(json.dumps(mutated(text, draw, where)))
        else:
            target = {"run.json": head, "lock": lock, "trials": trials}[kind]
            target.write_bytes(damaged_bytes(text.replace("\n", " ").encode() + b"\n", draw))

        def folder_of_run() -> None:
            with Checkpoint(place) as again:
                again.open(lambda: marks)
                assert again.journal.known(["a"], lambda: 0.5) == 0.5

        tally.read(kind, folder_of_run)


# ---- reports and options -----------------------------------------------------------------------


def fuzz_report(tally: Tally, folder: Path, scale: float) -> None:
    report = made_up(["fc1", "fc2"], bits=4)
    text = json.dumps(report)
    where = places(report)
    for index, draw in enumerate(repeated(int(1500 * scale), 8)):
        changed = mutated(text, draw, where)

        def read(changed: Any = changed, shown: bool = index % 20 == 0) -> None:
            parsed = parse_report(changed)
            if shown:
                render(*report_parts(parsed)).encode(errors="replace")

        tally.read("report", read)


WORDS = (
    'model = "net.py:make"',
    "sparsity = 0.9",
    "bits = 4",
    "[overrides.fc1]",
    'neuron = "LIF(tau=2.0)"',
    "ignore = ['head']",
    "max_memory = '1GiB'",
    "a.b.c = [1, {x = 2}]",
    "day = 1979-05-27T07:32:00Z",
    "big = 0xFFFF_FFFF",
)


def fuzz_options(tally: Tally, folder: Path, scale: float) -> None:
    """TOML and JSON, alone and as --config of every command; neurons and sizes as text."""
    group: Any = typer.main.get_command(cli.app)
    path = folder / "options.toml"
    for draw in repeated(int(1000 * scale), 9):
        lines = [draw.choice(WORDS) for _ in range(draw.randrange(1, 6))]
        lines += [f"deep = {'[' * 1000}"] if draw.random() < 0.02 else []
        data = damaged_bytes("\n".join(lines).encode(), draw)
        tally.read("toml", lambda data=data: parse_toml(data.decode(errors="replace")))
    for draw in repeated(int(300 * scale), 10):
        path.write_bytes(damaged_bytes("\n".join(WORDS).encode(), draw))
        tally.read("table of toml", lambda: table(path))
        inline = damaged_bytes(b'{"fc1": {"bits": 4, "sparsity": [0.5, null]}}', draw)
        tally.read("table of json", lambda inline=inline: table("{" + inline.decode("latin1")))
    names = ("sparsity", "bits", "calibration", "overrides", "max_memory", "ignore", "out", "model")
    values = (
        "[]",
        "{}",
        "-1",
        "1e400",
        "true",
        "'x'",
        "[[1]]",
        "1979-05-27",
        "''",
        "9" * 30,
        "nan",
    )
    for draw in repeated(int(200 * scale), 11):
        lines = [f"{draw.choice(names)} = {draw.choice(values)}"]
        path.write_text("\n".join(lines))
        command = group.commands[draw.choice(("compress", "inspect", "report", "evaluate"))]

        def read(command: Any = command) -> None:
            parent = typer.Context(group)
            with contextlib.redirect_stderr(io.StringIO()):
                command.make_context("sbc", ["--config", str(path)], parent=parent)

        tally.read("config", read)
    for draw in repeated(int(500 * scale), 12):
        text = damaged_bytes(b"CUBA(tau=2.0, tau_syn=[3, 1e9])", draw).decode("latin1")
        text = draw.choice((text, f"LIF(tau={'(' * 300}2{')' * 300})", "LIF(tau=-" + "~" * 5000))
        tally.read("neuron", lambda text=text: parse_neuron(text, "it"))
        size = draw.choice(("9" * 400, "9" * 5000 + "k", "1e5", "-1", ".", "٣k", "1.5GiB"))
        tally.read("bytes as text", lambda size=size: number_of_bytes(size))


def main() -> None:
    scale = float(sys.argv[1])
    logging.getLogger("sbc_kernels").setLevel(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    tally = Tally()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # no file is written to a disk
    with tempfile.TemporaryDirectory(dir=memory) as name:
        folder = Path(name)
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
        for fuzz in (fuzz_packed, fuzz_checkpoint, fuzz_report, fuzz_options):
            start = time.perf_counter()
            fuzz(tally, folder, scale)
            print(fuzz.__name__, round(time.perf_counter() - start, 2), file=sys.stderr)
    print(json.dumps({"counts": tally.counts, "slowest": tally.slowest}))


if __name__ == "__main__":
    main()
