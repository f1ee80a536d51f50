"""The records of options are what the signatures, the overrides and the checks say."""

import inspect
import pickle
from dataclasses import fields
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sbc_kernels as sbc
from sbc_kernels.errors import inside, naming_layer
from sbc_kernels.method import METHODS, LayerOptions
from sbc_kernels.model.allocation import ALLOCATIONS
from sbc_kernels.model.overrides import CHECKS
from sbc_kernels.model.settings import ModelOptions

# Arguments of `compress_layer` that are of its input, not options of a layer of a model.
OF_THE_INPUT = {"hessian", "stride", "padding", "dilation", "groups", "backend"}


def keywords(function: Any) -> dict[str, Any]:
    return {
        name: parameter.default
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def defaults(record: Any) -> dict[str, Any]:
    return {option.name: option.default for option in fields(record)}


def test_signatures_have_every_option_with_its_default() -> None:
    layer = keywords(sbc.compress_layer)
    assert {k: v for k, v in layer.items() if k not in OF_THE_INPUT} == defaults(LayerOptions)
    model = keywords(sbc.compress_model)
    assert model == defaults(ModelOptions)
    assert layer["hessian"] == model["hessian"]


@pytest.mark.parametrize(
    ("function", "record"),
    [(sbc.compress_layer, LayerOptions), (sbc.compress_model, ModelOptions)],
)
def test_docstrings_name_every_option(function: Any, record: Any) -> None:
    heads = [line.partition(" :")[0] for line in function.__doc__.splitlines() if " :" in line]
    named = {name.strip() for head in heads for name in head.split(",")}
    assert set(defaults(record)) <= named
    assert all(option.metadata["doc"].endswith(".") for option in fields(record))


def test_overrides_take_every_option_of_a_layer() -> None:
    assert set(CHECKS) - set(defaults(LayerOptions)) == {"skip", "neuron", "hessian"}


def test_outcome_has_what_decides_the_weights() -> None:
    options = ModelOptions(sparsity=0.5).settled(1 << 30).outcome()
    without = {"fold", "inplace", "max_memory", "checkpoint_dir", "progress"}
    assert set(options) == set(defaults(ModelOptions)) - without
    assert options["allocation"] == "lamp"
    assert options["calibration_mode"] == "sequential"


@pytest.mark.parametrize("name", METHODS)
def test_methods_settle_what_depends_on_them(name: str) -> None:
    bits = None if METHODS[name].bits.value == "never" else 4
    sparsity = None if METHODS[name].sparsity.value == "never" else "2:4"
    options = LayerOptions(method=name, bits=bits, sparsity=sparsity, block_size=6).resolved()
    assert options.grid == ("absmax" if METHODS[name].baseline else "mse")
    assert options.act_order is (name != "blocked")
    assert options.block_size == (8 if name == "blocked" else 6)
    assert options.resolved() == options
    assert METHODS[name].doc
    assert METHODS[name].cost(4, 16) > 0


def test_rules_of_allocation_are_described() -> None:
    assert all(rule.doc for rule in ALLOCATIONS.values())


def test_values_take_their_canonical_types() -> None:
    for bits, half, flag in (
        (np.int64(3), np.float32(0.5), np.True_),
        (torch.tensor(3), torch.tensor(0.5), torch.tensor(True)),
        (np.array(3, np.uint8), np.array(0.5), np.array(True)),
        (3, Fraction(1, 2), True),
        (3, Decimal("0.5"), True),
    ):
        options = LayerOptions(bits=bits, sparsity=half, damp_percent=half, sym=flag)
        values = (options.bits, options.sparsity, options.damp_percent, options.sym)
        assert values == (3, 0.5, 0.5, True)
        assert [type(v) for v in values] == [int, float, float, bool]
    assert type(LayerOptions(damp_percent=1).damp_percent) is float
    H = np.diag([1.0, 3.0])
    for value in (np.float32(0.5), torch.tensor(0.5), Fraction(1, 2)):
        assert np.array_equal(sbc.damped_hessian(H, value), np.diag([2.0, 4.0]))


@pytest.mark.parametrize(
    "value", [True, np.True_, torch.tensor(True), torch.tensor([0.5]), "0.5", 1j]
)
def test_what_is_no_number(value: Any) -> None:
    with pytest.raises(sbc.ParameterError, match=r"damp_percent is .* a number of at least 0"):
        LayerOptions(damp_percent=value)
    with pytest.raises(sbc.ParameterError, match=r"bits is .* an integer"):
        LayerOptions(bits=value)
    with pytest.raises(sbc.ParameterError, match=r"sym is .* True and False"):
        LayerOptions(sym=torch.tensor(1))


def test_errors_name_the_parameter_its_entry_and_its_layer() -> None:
    with (
        pytest.raises(sbc.ParameterError) as caught,
        naming_layer("fc"),
        inside("overrides", "f.*"),
    ):
        LayerOptions(bits=9)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.parameter, error.keys, error.given) == ("overrides", ("f.*", "bits"), 9)
    assert error.layer == "fc"
    assert str(error) == (
        "layer 'fc': overrides['f.*']['bits'] is 9; accepted is an integer in 1..8, or None"
    )


def test_group_size_is_refused_before_any_work() -> None:
    """A layer of 64 inputs has no group of 128; the layers before it are not calibrated first."""
    net, runs = nn.Sequential(nn.Linear(200, 64), nn.Linear(64, 4)), []
    net[0].register_forward_hook(lambda *_: runs.append(1))
    with pytest.raises(sbc.ParameterError, match=r"layer '1': group_size is 128.* in 1\.\.64"):
        sbc.compress_model(net, [torch.zeros(2, 3, 200)], bits=4, group_size=128)
    assert len(runs) == 2  # the trace's, which runs its example twice
    spikes = np.zeros((2, 3, 64), bool)
    with pytest.raises(sbc.ParameterError, match=r"group_size is 128"):
        sbc.compress_layer(np.ones((4, 64), "f"), spikes, bits=4, group_size=128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": "2:4"}, "layer '2': sparsity is '2:4' and d_in is 18"),
        ({"sparsity": 0.5, "allocation": {"2": "2:4"}}, "layer '2': sparsity is '2:4' and d_in"),
        ({"sparsity": 0.5, "allocation": {"2": 1.4}}, r"allocation\['2'\] is 1\.4"),
        ({"overrides": {"2": {"group_size": 19, "bits": 4}}}, "layer '2': group_size is 19"),
        ({"overrides": {"2": {"method": "rtn"}}, "sparsity": 0.5}, "layer '2': method is 'rtn'"),
        ({"overrides": {"2": {"block_size": 0}}}, r"overrides\['2'\]\['block_size'\] is 0"),
        ({"overrides": {"2": {"damp_percent": -1}}}, r"overrides\['2'\]\['damp_percent'\] is -1"),
        (
            {"overrides": {"2": {"method": "blocked", "sparsity": "1:2", "act_order": True}}},
            "layer '2': act_order is True with method 'blocked'",
        ),
    ],
)
def test_options_of_every_layer_are_checked_before_any_work(
    options: dict[str, Any], message: str
) -> None:
    """The trace runs the first layer of the net twice."""
    net, runs = nn.Sequential(nn.Linear(8, 18), nn.ReLU(), nn.Linear(18, 4)), []
    net[0].register_forward_hook(lambda *_: runs.append(1))
    with pytest.raises(sbc.ParameterError, match=message):
        sbc.compress_model(net, torch.rand(2, 3, 8), **options)
    assert len(runs) == 2
