"""What a model is called with: the input of a batch, as tensors of the model's own."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ParameterError

LABELS = ("labels", "label")  # as Hugging Face's data sets and models call them


def input_of(batch: Any) -> Any:
    """Returns the input of a batch: of a tuple or list the first item, the rest are labels.

    Raises
    ------
    ParameterError : a ValueError; the tuple or list is empty.
    """
    if isinstance(batch, (tuple, list)):
        if not batch:
            accepted = "a tensor, or a tuple that starts with one"
            raise ParameterError("a batch", batch, accepted, shown="empty")
        return batch[0]
    return batch


def keywords_of(model: nn.Module, batch: Mapping[Any, Any]) -> dict[str, Any] | None:
    """Returns a dictionary as keywords of a model's forward; None if it is one argument of it.

    Keywords it is where the forward has parameters of these names. Labels are left out, unless the
    forward cannot do without: with them, models of Hugging Face return a loss beside their output.

    Raises
    ------
    ParameterError : a ValueError; the forward has some of these parameters, and others not.
    """
    parameters = inspect.signature(model.forward).parameters
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    any_name = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    if not any(key in named for key in batch if key not in LABELS) and (named or not any_name):
        return None
    keywords = {
        key: value
        for key, value in batch.items()
        if key not in LABELS or (key in named and named[key].default is inspect.Parameter.empty)
    }
    unknown = [key for key in keywords if key not in named and not any_name]
    if unknown:
        raise ParameterError(
            "calibration",
            batch,
            f"accepted are those of the model's forward, {', '.join(map(repr, named))}, or a function "
            "forward(model, batch) that takes the dictionary",
            verb="has",
            shown=f"a batch with the key {unknown[0]!r}",
        )
    return keywords


def own_tensors(value: Any) -> Any:
    """Returns the value with copies of its tensors and arrays, which a model may change in place."""
    if isinstance(value, Tensor):
        return _own(value)
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, tuple):
        items = [own_tensors(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, list):
        return [own_tensors(item) for item in value]
    if type(value) is dict:
        return {key: own_tensors(item) for key, item in value.items()}
    if isinstance(value, MutableMapping):  # such as a tokenizer's BatchEncoding
        owned = copy.copy(value)
        for key, item in value.items():
            owned[key] = own_tensors(item)
        return owned
    return value


def _own(tensor: Tensor) -> Tensor:
    """Returns a copy of a tensor; axes that were expanded stay so, and take no memory."""
    if tensor.layout != torch.strided or 0 not in tensor.stride():
        return tensor.detach().clone()
    kept = tuple(slice(0, 1) if step == 0 else slice(None) for step in tensor.stride())
    return tensor.detach()[kept].clone().expand(tensor.shape)
