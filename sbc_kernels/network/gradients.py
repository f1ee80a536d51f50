"""Gradients that stay on while a forward is recorded, whatever the forward says about them.

An evaluation's forward is often under `torch.no_grad` or `torch.inference_mode`. No autograd graph
would be left to follow.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

P = ParamSpec("P")
R = TypeVar("R")

_here = threading.local()  # `kept`: gradients are kept on in this thread
_lock = threading.Lock()
_count = 0  # threads and levels in which they are


@contextmanager
def gradients_kept() -> Iterator[None]:
    """Keeps gradients on inside, also within `no_grad` and `inference_mode` of the code that runs."""
    with torch.inference_mode(False), torch.enable_grad(), _without_inference(), _Kept():
        yield


def in_usual_mode(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function outside of the caller's inference mode: its tensors could be part of no graph."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.is_inference_mode_enabled():
            return function(*args, **kwargs)
        with torch.inference_mode(False):
            return function(*args, **kwargs)

    return run


class _Kept(TorchFunctionMode):  # type: ignore[misc]
    """Ignores that gradients are switched off, and gives NumPy and Python values all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.wanted = True  # what the code that runs believes

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch._C._set_grad_enabled:
            self.wanted = bool(args[0])
            return None
        if function in _TO_VALUES and args[0].requires_grad:
            return function(args[0].detach(), *args[1:], **kwargs)
        if not self.wanted and _changes_leaf(function, args, kwargs):
            with torch.no_grad():  # a parameter that is clamped: autograd would refuse it
                return function(*args, **kwargs)
        return function(*args, **kwargs)


_TO_VALUES = {  # NumPy refuses tensors with gradients, and torch warns of numbers
    *(Tensor.numpy, Tensor.__array__, Tensor.tolist, Tensor.item),
    *(Tensor.__float__, Tensor.__int__, Tensor.__index__, Tensor.__complex__),
}


def _changes_leaf(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether a call changes a parameter, or another leaf with gradients, in place."""
    name = getattr(function, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    changed = [args[0]] if args and (in_place or name in _IN_PLACE) else []
    out = kwargs.get("out")
    changed += [out] if isinstance(out, Tensor) else list(out or ())
    return any(isinstance(t, Tensor) and t.requires_grad and _is_of_leaf(t) for t in changed)


_IN_PLACE = {"__setitem__", *(f"__i{op}__" for op in ("add", "sub", "mul", "truediv", "pow"))}


def _is_of_leaf(tensor: Tensor) -> bool:
    return tensor.is_leaf or (tensor._base is not None and tensor._base.is_leaf)


@contextmanager
def _without_inference() -> Iterator[None]:
    """Entering `torch.inference_mode` does nothing, in this thread.

    It cannot be undone from within: its tensors take part in no graph. So the class's method is another
    while any thread records; others find it as it was.
    """
    global _count
    before = getattr(_here, "kept", False)
    with _lock:
        if _count == 0:
            torch.inference_mode.__enter__ = _enter
        _count += 1
    _here.kept = True
    try:
        yield
    finally:
        _here.kept = before
        with _lock:
            _count -= 1
            if _count == 0:
                torch.inference_mode.__enter__ = _enter_of_torch


_enter_of_torch = torch.inference_mode.__enter__


def _enter(mode: Any) -> None:
    if getattr(_here, "kept", False) and mode.mode:
        mode._inference_mode_context = contextlib.nullcontext()
    else:
        _enter_of_torch(mode)
