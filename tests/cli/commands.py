"""Runs commands of sbc on a network and data of their own."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from sbc_kernels import cli

NET = """
import os, time, warnings
import torch
from torch import nn
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from spikingjelly.activation_based import functional, layer, neuron

class Slow(nn.Identity):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", 0)))
        return x

def make(width=24, depth=0):
    wide = []
    for _ in range(depth):
        wide += [layer.Linear(width, width, bias=False), layer.BatchNorm1d(width), neuron.IFNode()]
    net = nn.Sequential(
        Slow(), layer.Linear(20, width, bias=False), layer.BatchNorm1d(width), neuron.LIFNode(tau=2.0),
        *wide, layer.Linear(width, 4), neuron.IFNode(),
    )
    functional.set_step_mode(net, "m")
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.fill_(0.05)
    return net.eval()

def chatty():
    print("hello from the factory")
    return make()

def broken():
    return 1 / 0

def no_network():
    return [1, 2]

ready = make()
number = 3

def batches():
    torch.manual_seed(1)
    for _ in range(3):
        yield (torch.rand(6, 5, 20) < 0.3).float(), torch.randint(0, 4, (5,))

def interrupted():
    yield next(iter(batches()))
    raise KeyboardInterrupt

listed = list(batches())
once = batches()

def twice(model, batch):
    return model(batch) + model(batch)

def first(output):
    return output[0]
"""


def run(*arguments: str, **more: Any) -> Any:
    return CliRunner().invoke(cli.app, list(arguments), prog_name="sbc", **more)


def good(*arguments: str, **more: Any) -> Any:
    result = run(*arguments, **more)
    assert result.exit_code == 0, result.output
    return result


def said(result: Any) -> str:
    """What it printed, out of its box."""
    return " ".join(result.output.replace("│", " ").split())


CAL = ("net.py:make", "--calibration", "cal.npz")
