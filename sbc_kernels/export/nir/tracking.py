"""Tracking tensors through a forward pass: which element of which node's output each element is.

Every tracked tensor has terms, integer tensors of its shape, one for each summand it is made of. A
term's entries are labels of elements of the nodes' outputs, counted through. Functions that only move
elements (reshapes, stacks, indices: loops over time are made of them) are run on the terms as well; an
addition joins the lists of terms. For the result of any other function, the function's name and the
module that called it are kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ...network.tensors import map_tensors, tensors_in

__all__ = ["ABSENT", "UNKNOWN", "Index", "Operation", "Origin", "Tracker", "module_label"]

Index = NDArray[np.int64]

UNKNOWN, ABSENT = -1, -2  # labels: no node's output; this term does not exist here
CHANGED, STATE = "a change in place", "a state"  # operations that are no torch functions

# Functions by name, without the underscore of their variants in place.
_SAME = {
    *("clone", "contiguous", "detach", "requires_grad", "data", "cpu", "alias", "positive"),
    *("to", "type", "type_as", "float", "double", "half", "bfloat16"),
}
_JOINS = {"stack", "cat", "concat", "concatenate", "hstack", "vstack", "dstack"}
_MOVES = {
    *_JOINS,
    *("view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze"),
    *("unsqueeze", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "T"),
    *("mT", "expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile", "flip"),
    *("roll", "unbind", "split", "chunk", "tensor_split", "__getitem__", "select", "narrow"),
    "index_select",
}
_BLANKS = {
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like"),
    *("new_zeros", "new_ones", "new_empty", "new_full", "new_tensor"),
}
_DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout"}


def module_label(name: str, module: nn.Module) -> str:
    """Returns a module's name and class as messages show them."""
    return f"{name or 'the model itself'} ({type(module).__name__})"


@dataclass(frozen=True)
class Operation:
    """A function that does more than move and add.

    Attributes
    ----------
    function : its name; `CHANGED` and `STATE` stand for what is no function.
    caller : label of the module that called it.
    """

    function: str
    caller: str


@dataclass(frozen=True)
class Origin:
    """Where a tensor's elements come from.

    Attributes
    ----------
    terms : labels, int64 of the tensor's shape, of each summand. Empty if operations made the tensor.
    operations : what made the tensor from outputs of `sources`.
    sources : names of the nodes that operations started from.
    """

    terms: tuple[Tensor, ...] = ()
    operations: tuple[Operation, ...] = ()
    sources: tuple[str, ...] = ()


class Tracker(TorchFunctionMode):  # type: ignore[misc]
    """While this mode is on and `depth` is 0, the origins of tensors are kept.

    Attributes
    ----------
    active : names and modules whose forward runs, innermost last.
    depth : number of nodes whose forward runs; inside of them nothing is tracked.
    owners : the node of each output so far.
    offsets : the first label of each output, and one past the last.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.active: list[tuple[str, nn.Module]] = [("", model)]
        self.depth = 0
        self.owners: list[str] = []
        self.offsets: list[int] = [0]
        self._origins: Any = WeakTensorKeyDictionary()  # tensor -> (Origin, the tensor's version)

    # ---- origins

    def origin(self, tensor: Any) -> Origin | None:
        """Returns a tensor's origin; None where it was not tracked."""
        if not isinstance(tensor, Tensor) or tensor not in self._origins:
            return None
        origin: Origin
        origin, version = self._origins[tensor]
        return origin if version == _version(tensor) else self._derived([origin], CHANGED)

    def set_origin(self, tensor: Tensor, origin: Origin) -> None:
        self._origins[tensor] = (origin, _version(tensor))

    def label_output(self, owner: str, output: Tensor) -> None:
        """Gives the elements of a node's output labels of their own."""
        self.owners.append(owner)
        self.offsets.append(self.offsets[-1] + output.numel())
        self.set_origin(output, Origin((torch.arange(*self.offsets[-2:]).reshape(output.shape),)))

    def output_of(self, labels: Index) -> Index:
        """Returns the number of the output that each label belongs to; negative labels stay."""
        numbers = np.searchsorted(np.array(self.offsets), labels, side="right") - 1
        return np.where(labels < 0, labels, numbers)

    def nodes_of(self, origin: Origin) -> list[str]:
        """Returns the names of the nodes that a tensor comes from, each once."""
        numbers = [np.unique(self.output_of(term.flatten().numpy())) for term in origin.terms]
        owners = [self.owners[number] for part in numbers for number in part if number >= 0]
        return list(dict.fromkeys((*origin.sources, *owners)))

    def _derived(self, inputs: list[Origin], function: str | None) -> Origin:
        """Returns the origin of a function's result that is not a sum of terms."""
        operations = [operation for origin in inputs for operation in origin.operations]
        caller = module_label(*self.active[-1])
        if any(len(origin.terms) > 1 for origin in inputs):
            operations.append(Operation("add", caller))
        if function is not None:
            operations.append(Operation(function, caller))
        sources = [name for origin in inputs for name in self.nodes_of(origin)]
        return Origin((), tuple(dict.fromkeys(operations)), tuple(dict.fromkeys(sources)))

    # ---- functions

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.depth:
            return func(*args, **kwargs)
        inputs = [o for t in tensors_in((args, kwargs)) if (o := self.origin(t)) is not None]
        result = func(*args, **kwargs)
        name = _name_of(func)
        if inputs and name == "__setitem__":
            self._set_item(inputs, *args)
        elif inputs and name not in _BLANKS:
            self._track(name, func, args, kwargs, inputs, tensors_in(result))
        return result

    def _track(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Origin],
        results: list[Tensor],
    ) -> None:
        if name in _DROPOUTS and not kwargs.get("training", args[2] if len(args) > 2 else True):
            name = "alias"
        moves = name in _MOVES or (name in _SAME and all(r.is_floating_point() for r in results))
        if moves and name in _MOVES and not any(origin.operations for origin in inputs):
            self._move(name, func, args, kwargs, inputs, results)
            return
        result_origin = None
        if name == "add" and not any(origin.operations for origin in inputs):
            result_origin = self._sum(args, kwargs, results[0])
        elif moves and len(inputs) == 1:
            result_origin = inputs[0]
        for result in results:
            self.set_origin(result, result_origin or self._derived(inputs, None if moves else name))

    def _move(
        self,
        name: str,
        func: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        inputs: list[Origin],
        results: list[Tensor],
    ) -> None:
        """Moves the terms as the tensors were moved."""
        moved = []
        for at in range(max(len(origin.terms) for origin in inputs)):

            def term_of(tensor: Tensor, at: int = at) -> Tensor:
                if tensor not in self._origins:
                    return torch.full(tensor.shape, UNKNOWN) if name in _JOINS else tensor
                terms = self._origins[tensor][0].terms
                return terms[at] if at < len(terms) else torch.full(tensor.shape, ABSENT)

            arguments = map_tensors(args, term_of), map_tensors(kwargs, term_of)
            moved.append(tensors_in(func(*arguments[0], **arguments[1])))
        for result, terms in zip(results, zip(*moved, strict=True), strict=True):
            self.set_origin(result, Origin(terms))

    def _sum(self, args: tuple[Any, ...], kwargs: dict[str, Any], result: Tensor) -> Origin | None:
        """Returns the origin of a sum of nodes' outputs and zeros; None for other sums."""
        if kwargs.get("alpha", 1) != 1:
            return None
        terms: list[Tensor] = []
        for operand in (*args, *(v for k, v in kwargs.items() if k not in ("alpha", "out"))):
            if isinstance(operand, Tensor) and operand in self._origins:
                terms += [term.expand(result.shape) for term in self._origins[operand][0].terms]
            elif bool((operand != 0).any()) if isinstance(operand, Tensor) else operand != 0:
                return None
        return Origin(tuple(terms))

    def _set_item(self, inputs: list[Origin], whole: Tensor, index: Any, value: Any) -> None:
        """Tracks ``whole[index] = value``."""
        if any(origin.operations for origin in inputs):
            self.set_origin(whole, self._derived(inputs, None))
            return
        before, after = (
            self._origins[t][0].terms if isinstance(t, Tensor) and t in self._origins else ()
            for t in (whole, value)
        )
        terms = []
        for at, (old, new) in enumerate(itertools.zip_longest(before, after)):
            empty = UNKNOWN if at == 0 else ABSENT
            term = torch.full(whole.shape, empty) if old is None else old.clone()
            term[index] = empty if new is None else new
            terms.append(term)
        self.set_origin(whole, Origin(tuple(terms)))


def _name_of(func: Any) -> str:
    """Returns a torch function's name; x.add_ and x += y are "add", x.T is "T"."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        name = func.__self__.__name__
    if name in ("__add__", "__radd__", "__iadd__"):
        return "add"
    return name if name.startswith("__") else name.rstrip("_")


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else int(tensor._version)
