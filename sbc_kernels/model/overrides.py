"""The user's options for single layers, by name or regular expression."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..errors import ParameterError, ParameterTypeError, inside
from ..method import LayerOptions
from ..method.fields import Check, Flag, option_names
from ..neurons import impulse_response
from .settings import ModelOptions

Overrides = Mapping[str, Mapping[str, Any]]
Rules = dict[str, dict[str, Any]]


def _neuron(name: str, value: Any) -> Any:
    """Checks the neuron of an override; None is the current Hessian."""
    if value is not None:
        impulse_response(value, 1)
    return value


OPTIONS: dict[str, Check] = {o.name: o.metadata["check"] for o in fields(ModelOptions)}

# What an override may hold: how the layer is planned, and every option of `compress_layer`.
CHECKS: dict[str, Check] = {
    "skip": Flag(),
    "neuron": _neuron,
    "hessian": OPTIONS["hessian"],
    **{name: OPTIONS[name] for name in option_names(LayerOptions)},
}


def layer_rules(
    names: list[str],
    tied: Sequence[Sequence[str]],
    overrides: Overrides | None,
    ignore: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """The overrides of each weight layer by its name, later patterns over earlier ones.

    Parameters
    ----------
    names : of the layers.
    tied : names of one weight; what is asked for one of them holds for all.
    overrides, ignore : of the user.

    Raises
    ------
    ParameterError : a pattern matches no layer, or a rule has an option or value that is not accepted.
    """
    overrides = OPTIONS["overrides"]("overrides", overrides)
    ignore = OPTIONS["ignore"]("ignore", ignore)
    rules: Rules = defaultdict(dict)
    for pattern, rule in (overrides or {}).items():
        matching = _matching("overrides", pattern, names)
        own = _checked(pattern, rule)
        for name in matching:
            rules[name].update(own)
    for pattern in ignore:
        for name in _matching("ignore", pattern, names):
            rules[name]["skip"] = True
    for group in tied:
        if len(group) > 1:
            common = _common_rule(group, rules)
            rules |= dict.fromkeys(group, common)
    return rules


def _common_rule(names: Sequence[str], rules: Rules) -> dict[str, Any]:
    """The rule of one weight with several names. Raises ParameterError where theirs contradict."""
    common: dict[str, Any] = {}
    given_to: dict[str, str] = {}
    for name in names:
        for key, value in rules.get(name, {}).items():
            if key == "skip":  # to leave a weight alone under one name is to leave it alone
                common[key] = bool(common.get(key)) or value
                continue
            if key in common and common[key] != value:
                other = given_to[key]
                raise ParameterError(
                    "overrides",
                    value,
                    "accepted is one value for both",
                    verb="gives",
                    shown=f"{other!r} and {name!r}, which have one weight, "
                    f"{key}={common[key]!r} and {key}={value!r}",
                )
            common[key] = value
            given_to[key] = name
    return common


def _checked(pattern: str, rule: Any) -> dict[str, Any]:
    """A rule whose options and values are accepted."""
    if not isinstance(rule, Mapping):
        raise ParameterTypeError(
            "overrides", rule, "a dictionary", shown=_kind(rule), keys=(pattern,)
        )
    own = {}
    for key, value in rule.items():
        if key not in CHECKS:
            raise ParameterError(
                "overrides",
                key,
                f"accepted are {', '.join(CHECKS)}",
                verb="has",
                shown=repr(key),
                keys=(pattern,),
            )
        with inside("overrides", pattern):
            own[key] = CHECKS[key](key, value)
    return own


def _matching(parameter: str, pattern: Any, names: list[str]) -> list[str]:
    """The layers that a pattern is the name of, or matches as a whole."""
    if not isinstance(pattern, str):
        raise ParameterTypeError(
            parameter,
            pattern,
            "accepted are names or regular expressions",
            verb="has",
            shown=f"{pattern!r}",
        )
    try:
        matching = [n for n in names if n == pattern or re.fullmatch(pattern, n)]
    except (re.error, OverflowError, RecursionError) as error:
        raise ParameterError(
            parameter,
            pattern,
            "accepted is a layer's name or a regular expression",
            verb="has",
            shown=f"{pattern!r}, which is neither ({error})",
        ) from error
    if not matching:
        raise ParameterError(
            parameter,
            pattern,
            f"accepted are {', '.join(names)}",
            verb="has",
            shown=f"{pattern!r}, which matches no weight layer",
        )
    return matching


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
