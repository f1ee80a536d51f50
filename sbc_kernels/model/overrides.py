"""What the user says about single layers, by name or regular expression."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..network.tensors import WEIGHT_LAYERS
from ..neurons import impulse_response

Overrides = Mapping[str, Mapping[str, Any]]

# Of an override, beside the arguments of compress_layer.
_PLAN_OPTIONS = ("skip", "neuron", "hessian")
LAYER_OPTIONS = (
    "sparsity",
    "bits",
    "method",
    "grid",
    "sym",
    "group_size",
    "act_order",
    "block_size",
    "damp_percent",
)


def layer_rules(
    model: nn.Module, overrides: Overrides | None, ignore: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """What was said about each weight layer, later patterns over earlier ones."""
    if isinstance(ignore, str):
        raise TypeError(
            f"ignore is the string {ignore!r}; accepted is a list of names or expressions"
        )
    if overrides is not None and not isinstance(overrides, Mapping):
        raise TypeError(
            f"overrides is a {type(overrides).__name__}; accepted is a dictionary by layer name"
        )
    names = [name for name, module in model.named_modules() if isinstance(module, WEIGHT_LAYERS)]
    rules: dict[str, dict[str, Any]] = defaultdict(dict)
    said: list[tuple[str, str, Mapping[str, Any]]] = [
        *(("overrides", pattern, rule) for pattern, rule in (overrides or {}).items()),
        *(("ignore", pattern, {"skip": True}) for pattern in ignore),
    ]
    for parameter, pattern, rule in said:
        if not isinstance(rule, Mapping):
            raise TypeError(
                f"{parameter}[{pattern!r}] is a {type(rule).__name__}; accepted is a dictionary"
            )
        if not isinstance(pattern, str):
            raise TypeError(
                f"{parameter} has {pattern!r}; accepted are names or regular expressions"
            )
        for key in rule:
            if key not in _PLAN_OPTIONS + LAYER_OPTIONS:
                raise ValueError(
                    f"{parameter}[{pattern!r}] has {key!r}; accepted are "
                    f"{', '.join(_PLAN_OPTIONS + LAYER_OPTIONS)}"
                )
        if rule.get("neuron") is not None:
            impulse_response(rule["neuron"], 1)
        if rule.get("hessian", "smp") not in ("smp", "current"):
            raise ValueError(
                f"{parameter}[{pattern!r}] has hessian {rule['hessian']!r}; accepted are 'smp' and "
                "'current'"
            )
        try:
            matching = [n for n in names if n == pattern or re.fullmatch(pattern, n)]
        except re.error as error:
            raise ValueError(
                f"{parameter} has {pattern!r}, which is neither a layer's name nor a regular "
                f"expression: {error}"
            ) from error
        if not matching:
            raise ValueError(
                f"{parameter} has {pattern!r}, which matches no weight layer; there are "
                f"{', '.join(names)}"
            )
        for name in matching:
            rules[name].update(rule)
    return rules
