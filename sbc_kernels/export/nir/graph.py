"""Spiking networks as NIR graphs, the Neuromorphic Intermediate Representation (neuroir.org).

    what the model has                                  the node
    Linear                                              Affine (bias 0 where there is none)
    Conv1d, Conv2d                                      Conv1d, Conv2d
    AvgPool2d, AdaptiveAvgPool2d of whole windows       AvgPool2d
    sinabs' SumPool2d, LPPool2d of norm 1               SumPool2d
    a reshape that joins axes                           Flatten, its axes counted from the end
    SpikingJelly IFNode, Norse IAF, sinabs IAF,         IF
      snnTorch Leaky with beta = 1
    SpikingJelly LIFNode, ParametricLIFNode, snnTorch   LIF
      Leaky, Lapicque, Norse LIFBoxCell, sinabs LIF
    SpikingJelly CUBALIFNode, snnTorch Synaptic, Norse  CubaLIF
      LIF and LIFCell, sinabs LIF with tau_syn
    sinabs ExpLeak, Norse LIBoxCell, LI                 LI, CubaLI, I
    several modules added up                            several edges into a node

Identities and Dropout become edges. NIR has no BatchNorm (fold it: ``compress_model(fold=True)``), no
MaxPool and no product of two activations (attention); its edges have no delay, and recurrence is not
exported. A model with one of these raises an error that names the module. NIR's shapes contain neither
time nor the batch.

**Time step.** NIR's neurons are differential equations. Readers have to run them in steps of ``dt`` =
1e-4 s (`dt` in the graph's metadata). By explicit Euler, ``v <- decay v + gain x + (1 - decay) leak``
is ``tau = dt / (1 - decay)`` and ``r = gain tau / dt``. The unit of a potential is free, and most
readers accept one value of r only, so r is 1 (``1 / dt`` for an IF), and ``v_threshold``, ``v_reset``
and ``v_leak`` are divided by the value it would have: a potential of 1 in the node is then `unit` (in
the metadata) in the model. In a current-based neuron the current is updated first and acts in the same
step: ``r = tau_mem / dt``, ``w_in = tau_syn / dt``. Before the first step a LIF is at ``v_leak``, an
IF at ``v_reset``, and a current is 0.

**Firing.** NIR's neurons fire above ``v_threshold`` and are then reset to ``v_reset``. Some frameworks
(SpikingJelly, sinabs) fire at the threshold already, and with quantized weights potentials do equal
it. So ``v_threshold`` lies between two neighbouring float32 numbers, on the side where both kinds of
readers fire as the model does; the model's own threshold is in the metadata. NIR has no reset by
subtraction, no lower bound of a potential and no more than one spike a step. Neurons with these are
written with the model's own threshold, a warning, and `reset`, `subtract`, `floor`, `most_spikes` in
the metadata (in the model's units): only a reader that does the same fires the same spikes. A neuron
that does not start at rest is written with a warning and its `start`.

**Readers**, as tried with neurons that are reset to a value. SpikingJelly 2.0 reads IF, LIF and
CubaLIF whose neurons are all alike. snnTorch 1.0 reads LIF and CubaLIF with one threshold a node and a
resting potential of 0; its IF leaks. Norse 1.1 (``dt=1e-4, ignore_warnings=True``) reads IF, LIF and
CubaLIF with a resting potential of 0 and a threshold for each neuron; it leaves out AvgPool2d and
Conv1d. sinabs 3.1 reads IF only, which then subtracts, fires several spikes a step and is bounded
below by minus the threshold. Norse and sinabs run chains; where edges meet they lag a step.

**Quantized weights** are written dequantized, with `codes`, `scale`, `zero_point`, `bits`,
`group_size` and `mask` in the node's metadata. With ``integer_weights`` the weights are the integers
``codes - zero_point`` (stored as float32), and each row's scale is divided out of the bias and of the
neurons' ``v_threshold``, ``v_reset`` and ``v_leak``, which leaves every spike as it is. Thresholds
then differ between neurons; of these readers Norse and sinabs accept that.

All metadata of this package is below the key ``sbc_kernels`` of a node's or the graph's metadata.
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._version import __version__
from ...errors import ParameterError, ParameterTypeError, warn
from ...files.atomic import write_atomic
from ...frameworks import Adapter, Update
from ...network.copies import (
    Forward,
    copy_of,
    neurons_of,
    require_model,
    reset_states,
    run_forward,
    undisturbed,
)
from ...weights import CompressedWeight
from .edges import Edges, Shape, find_edges
from .layers import layer_node
from .neurons import DT, neuron_node, require_equations_hold
from .refusals import INPUT, ModelRefused
from .scales import Scales, integers_of, quantized_layers
from .tracking import module_label

__all__ = ["nir_graph", "write_nir"]


def nir_graph(
    model: nn.Module,
    example: Any,
    *,
    forward: Forward | None = None,
    weights: Mapping[str, CompressedWeight] | None = None,
    integer_weights: bool = False,
    unfolded: Mapping[str, str] | None = None,
) -> Any:
    """Returns a spiking network as a ``nir.NIRGraph``. This module's text lists which node stands for
    what.

    A copy of the model runs forward once, and its tensors are tracked; the model itself is left as it
    is. Every neuron's spikes in that pass are compared with the equations that are written.

    Parameters
    ----------
    model : a network whose BatchNorms are folded.
    example : a batch as the model takes it, of two samples or more; of a tuple or list the first item.
    forward : ``forward(model, batch)`` runs one whole sequence; default ``model(batch)``.
    weights : by layer name, the compressed weights (`CompressedModel.weights`, or those that
        `read_packed` returned); NumPy or torch in CPU memory. Without them the graph has no codes.
    integer_weights : write quantized layers as integers and move their scales into the neurons. Each of
        these layers needs one scale a row, and each neuron layers of the same scale.
    unfolded : by name of a BatchNorm, why it was not folded (`CompressedModel.unfolded`), for messages.

    Returns
    -------
    nir.NIRGraph

    Raises
    ------
    ImportError : the package `nir` is missing.
    TypeError, ValueError : naming the parameter, or the module that NIR cannot hold, and what to do.
    """
    nir = _package()
    require_model(model)
    if not isinstance(integer_weights, bool):
        raise ParameterTypeError("integer_weights", integer_weights, "True or False")
    batch = _input_of(example)
    work = copy_of(model)
    work.eval()
    quantized = quantized_layers(work, weights or {})
    integers = integers_of(quantized) if integer_weights else {}
    neurons = neurons_of(work)
    with undisturbed():
        reset_states(work)
        edges = find_edges(
            work, neurons, batch, lambda: run_forward(work, batch, forward), unfolded
        )
        reset_states(work)

    scales = Scales(nir, edges, integers)
    keys = _keys(edges)
    nodes: dict[str, Any] = {keys[INPUT]: nir.Input({"input": np.array(edges.input_shape)})}
    pairs: list[tuple[str, str]] = []
    losses: list[str] = []
    for name, node in edges.nodes.items():
        scale = scales.into(name)
        for source in node.sources:
            shape = edges.output_shape(source)
            end = _flattened(nir, nodes, pairs, keys[source], shape, node.input_shape)
            pairs.append((end, keys[name]))
        if name in neurons:
            update = _update_of(name, *neurons[name])
            require_equations_hold(name, node, update)
            nodes[keys[name]], node_losses = neuron_node(nir, name, node, update, scale)
            losses += node_losses
        else:
            nodes[keys[name]] = layer_node(nir, name, node, quantized.get(name), integers.get(name))
        scales.record(name, nodes[keys[name]], scale)
    scales.require_none_left()
    output = _free("output", nodes)
    nodes[output] = nir.Output({"output": np.array(edges.output_shape(edges.outputs[0]))})
    pairs += [(keys[name], output) for name in edges.outputs]
    if losses:
        warn(
            "NIR cannot hold all that this model does; only a reader that does it fires alike: "
            + "; ".join(losses),
            UserWarning,
        )
    metadata = {
        "version": __version__,
        "model": type(model).__name__,
        "dt": DT,
        "integer_weights": integer_weights,
        "readout": ", ".join(edges.readout),
    }
    return nir.NIRGraph(nodes, pairs, metadata={"sbc_kernels": metadata})


def write_nir(path: str | Path, graph: Any) -> int:
    """Writes a NIR graph to a file that ``nir.read`` reads, and returns its size in bytes.

    Parameters
    ----------
    path : of the file; its folder must exist. The file is whole or not there.
    graph : of `nir_graph`.

    Raises
    ------
    ImportError : the package `nir` is missing.
    TypeError : naming the parameter, what came and what is accepted.
    """
    nir = _package()
    if not isinstance(graph, nir.NIRGraph):
        raise ParameterTypeError(
            "graph", graph, "a nir.NIRGraph", shown=f"a {type(graph).__name__}"
        )
    if not isinstance(path, (str, Path)):
        raise ParameterTypeError(
            "path", path, "a str or a pathlib.Path", shown=f"a {type(path).__name__}"
        )
    data = io.BytesIO()
    nir.write(data, graph)
    return write_atomic(path, data.getvalue())


def _package() -> ModuleType:
    try:
        return importlib.import_module("nir")
    except ImportError as error:
        raise ImportError("NIR graphs need the package nir: pip install nir") from error


def _input_of(example: Any) -> Tensor:
    first = example[0] if isinstance(example, (tuple, list)) and example else example
    if not isinstance(first, Tensor):
        raise ParameterTypeError(
            "example",
            example,
            "a tensor, or a tuple or list that starts with one: a NIR graph has one input",
            shown=f"a {type(example).__name__}",
        )
    if first.layout is not torch.strided or first.numel() == 0:
        raise ParameterError(
            "example",
            example,
            "a dense tensor of one sample or more",
            shown=f"{first.dtype}, {first.layout} of shape {list(first.shape)}",
        )
    return first.detach()


def _update_of(name: str, module: nn.Module, adapter: Adapter) -> Update:
    """Returns a neuron's equations. Raises ValueError where NIR has none like them."""
    update_of = getattr(adapter, "update", None)
    update: Update | str = "its equations are not known" if update_of is None else update_of(module)
    if isinstance(update, str):
        raise ModelRefused(
            f"model has {module_label(name, module)}, which NIR cannot hold: {update}; accepted are "
            "integrate-and-fire neurons, plain, leaky or current-based (IF, LIF, CubaLIF)"
        )
    return update


# ---- names, shapes, flattening -----------------------------------------------------------------


def _free(name: str, nodes: Mapping[str, Any]) -> str:
    """Returns a name that no node has, also not with underscores for dots, as readers write it."""
    names = {key.replace(".", "_") for key in nodes}
    while name.replace(".", "_") in names:
        name += "_"
    return name


def _keys(edges: Edges) -> dict[str, str]:
    """Returns the nodes' names in the graph, by module name.

    They are the modules', but for slashes, which make groups of a file.
    """
    keys: dict[str, str] = {}
    for name in edges.nodes:
        keys[name] = _free(name.replace("/", "_") or "model", dict.fromkeys(keys.values()))
    keys[INPUT] = _free("input", dict.fromkeys(keys.values()))
    return keys


def _flattened(
    nir: ModuleType,
    nodes: dict[str, Any],
    pairs: list[tuple[str, str]],
    source: str,
    shape: Shape,
    target: Shape,
) -> str:
    """Returns the node that has the output of `source` in the shape `target`.

    It is `source` itself, or a Flatten behind it, which is added unless there is one already.
    """
    if shape == target:
        return source
    span = next(
        (
            (start, end)
            for start in range(len(shape))
            for end in range(start + 1, len(shape))
            if (*shape[:start], int(np.prod(shape[start : end + 1])), *shape[end + 1 :]) == target
        ),
        None,
    )
    if span is None:
        raise ModelRefused(
            f"model reshapes the output of {source} from {list(shape)} to {list(target)}; accepted is "
            "a reshape that joins axes, which is NIR's Flatten"
        )
    # From the end: readers differ in whether they count a batch axis.
    start, end = (at - len(shape) for at in span)
    for key, node in nodes.items():
        if isinstance(node, nir.Flatten) and (source, key, start, end) == (
            *next(pair for pair in pairs if pair[1] == key),
            node.start_dim,
            node.end_dim,
        ):
            return key
    key = _free(f"{source}_flatten", nodes)
    nodes[key] = nir.Flatten({"input": np.array(shape)}, start_dim=start, end_dim=end)
    pairs.append((source, key))
    return key
