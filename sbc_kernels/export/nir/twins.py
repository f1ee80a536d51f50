"""Following tensors through a forward pass: which element of which node's output each element is.

Every tensor has twins, integer tensors of its shape, one for each term it is a sum of. A twin's entries
are labels of the elements of the nodes' outputs, counted through. Functions that only move elements
(reshapes, stacks, indices: loops over time are made of them) are run on the twins as well; an addition
joins the lists of terms. What any other function answers is remembered with the function's name and the
module that called it.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from ...network.tensors import map_tensors, tensors_in

__all__ = ["ABSENT", "UNKNOWN", "Known", "Through", "Twins", "called"]

Index = NDArray[np.int64]

UNKNOWN, ABSENT = -1, -2  # labels: no node answered this; this term is not there

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


def called(name: str, module: Any) -> str:
    """A module as people are told of it."""
    return f"{name or 'the model itself'} ({type(module).__name__})"


@dataclass(frozen=True)
class Through:
    """A function that does more than move and add, and the module that called it."""

    function: str
    place: str


@dataclass(frozen=True)
class Known:
    """A tensor: a sum of terms, or something that functions made from what `sources` answered."""

    terms: tuple[Tensor, ...] = ()  # int64, of the tensor's shape
    through: tuple[Through, ...] = ()
    sources: tuple[str, ...] = ()


class Twins(TorchFunctionMode):  # type: ignore[misc]
    """While this mode is on, and `inside` is 0, functions are followed.

    Attributes
    ----------
    active : names and modules whose forward runs, innermost last.
    inside : how many nodes' forwards run.
    owners : the node that answered, for each answer so far; `offsets` are the first labels of these.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.active: list[tuple[str, Any]] = [("", model)]
        self.inside = 0
        self.owners: list[str] = []
        self.offsets: list[int] = [0]
        self._known: Any = WeakTensorKeyDictionary()  # tensor -> (Known, the tensor's version)

    # ---- what is known of tensors

    def get(self, tensor: Any) -> Known | None:
        if not isinstance(tensor, Tensor) or tensor not in self._known:
            return None
        known: Known
        known, version = self._known[tensor]
        return known if version == _version(tensor) else self.made([known], "a change in place")

    def set(self, tensor: Tensor, known: Known) -> None:
        self._known[tensor] = (known, _version(tensor))

    def answered(self, owner: str, answer: Tensor) -> None:
        """A node's output: its elements get labels of their own."""
        self.owners.append(owner)
        self.offsets.append(self.offsets[-1] + answer.numel())
        self.set(answer, Known((torch.arange(*self.offsets[-2:]).reshape(answer.shape),)))

    def answer_of(self, labels: Index) -> Index:
        """The number of the answer that each label belongs to; what is negative stays."""
        found = np.searchsorted(np.array(self.offsets), labels, side="right") - 1
        return np.where(labels < 0, labels, found)

    def nodes_of(self, known: Known) -> list[str]:
        """The nodes that a tensor comes from, each once."""
        found = [np.unique(self.answer_of(term.flatten().numpy())) for term in known.terms]
        answered = [self.owners[at] for part in found for at in part if at >= 0]
        return list(dict.fromkeys((*known.sources, *answered)))

    def made(self, involved: list[Known], function: str | None) -> Known:
        """What is known of a function's answer that is not a sum of terms."""
        through = [step for known in involved for step in known.through]
        here = called(*self.active[-1])
        if any(len(known.terms) > 1 for known in involved):
            through.append(Through("add", here))
        if function is not None:
            through.append(Through(function, here))
        sources = [name for known in involved for name in self.nodes_of(known)]
        return Known((), tuple(dict.fromkeys(through)), tuple(dict.fromkeys(sources)))

    # ---- functions

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.inside:
            return func(*args, **kwargs)
        involved = [k for t in tensors_in((args, kwargs)) if (k := self.get(t)) is not None]
        result = func(*args, **kwargs)
        name = _name_of(func)
        if involved and name == "__setitem__":
            self._set_item(involved, *args)
        elif involved and name not in _BLANKS:
            self._follow(name, func, args, kwargs, involved, tensors_in(result))
        return result

    def _follow(
        self,
        name: str,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        involved: list[Known],
        answers: list[Tensor],
    ) -> None:
        if name in _DROPOUTS and not kwargs.get("training", args[2] if len(args) > 2 else True):
            name = "alias"
        moves = name in _MOVES or (name in _SAME and all(a.is_floating_point() for a in answers))
        if moves and name in _MOVES and not any(known.through for known in involved):
            self._move(name, func, args, kwargs, involved, answers)
            return
        found = None
        if name == "add" and not any(known.through for known in involved):
            found = self._sum(args, kwargs, answers[0])
        elif moves and len(involved) == 1:
            found = involved[0]
        for answer in answers:
            self.set(answer, found or self.made(involved, None if moves else name))

    def _move(
        self,
        name: str,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        involved: list[Known],
        answers: list[Tensor],
    ) -> None:
        """Moves the twins as the tensors were moved."""
        moved = []
        for at in range(max(len(known.terms) for known in involved)):

            def twin(tensor: Tensor, at: int = at) -> Tensor:
                if tensor not in self._known:
                    return torch.full(tensor.shape, UNKNOWN) if name in _JOINS else tensor
                terms = self._known[tensor][0].terms
                return terms[at] if at < len(terms) else torch.full(tensor.shape, ABSENT)

            moved.append(tensors_in(func(*map_tensors(args, twin), **map_tensors(kwargs, twin))))
        for answer, terms in zip(answers, zip(*moved, strict=True), strict=True):
            self.set(answer, Known(terms))

    def _sum(self, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Tensor) -> Known | None:
        """Of a sum of nodes' outputs and zeros; None for other sums."""
        if kwargs.get("alpha", 1) != 1:
            return None
        terms: list[Tensor] = []
        for operand in (*args, *(v for k, v in kwargs.items() if k not in ("alpha", "out"))):
            if isinstance(operand, Tensor) and operand in self._known:
                terms += [term.expand(answer.shape) for term in self._known[operand][0].terms]
            elif bool((operand != 0).any()) if isinstance(operand, Tensor) else operand != 0:
                return None
        return Known(tuple(terms))

    def _set_item(self, involved: list[Known], whole: Tensor, index: Any, value: Any) -> None:
        if any(known.through for known in involved):
            self.set(whole, self.made(involved, None))
            return
        old, new = (
            self._known[t][0].terms if isinstance(t, Tensor) and t in self._known else ()
            for t in (whole, value)
        )
        terms = []
        for at, (was, now) in enumerate(itertools.zip_longest(old, new)):
            empty = UNKNOWN if at == 0 else ABSENT
            twin = torch.full(whole.shape, empty) if was is None else was.clone()
            twin[index] = empty if now is None else now
            terms.append(twin)
        self.set(whole, Known(tuple(terms)))


def _name_of(func: Any) -> str:
    """A torch function's name; x.add_ and x += y are "add", x.T is "T"."""
    name = str(getattr(func, "__name__", func))
    if name == "__get__":
        name = func.__self__.__name__
    if name in ("__add__", "__radd__", "__iadd__"):
        return "add"
    return name if name.startswith("__") else name.rstrip("_")


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else int(tensor._version)
