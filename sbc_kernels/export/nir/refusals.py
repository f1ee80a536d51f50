"""Messages about what stands between two nodes and is no edge."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import ParameterError
from .tracking import STATE, Operation

__all__ = ["INPUT", "ModelRefused", "listed", "no_edge", "node_label"]

INPUT = "<input>"  # the name of the model's input among the nodes

_NO_MAX_POOL = "NIR has no MaxPool: train with nn.AvgPool2d or strides instead"
_NO_PRODUCT = "NIR has no product of two activations, which attention needs"

# By the name of a function, what to do about it.
_ADVICE = {
    **{f"max_pool{axes}d": _NO_MAX_POOL for axes in (1, 2, 3)},
    **{f"max_pool{axes}d_with_indices": _NO_MAX_POOL for axes in (1, 2, 3)},
    **{f"adaptive_max_pool{axes}d": _NO_MAX_POOL for axes in (1, 2, 3)},
    **{f"adaptive_max_pool{axes}d_with_indices": _NO_MAX_POOL for axes in (1, 2, 3)},
    "linear": "Call the layer's module in place of F.linear",
    "matmul": _NO_PRODUCT,
    "mm": _NO_PRODUCT,
    "bmm": _NO_PRODUCT,
    "baddbmm": _NO_PRODUCT,
    "einsum": _NO_PRODUCT,
    "softmax": _NO_PRODUCT,
    "scaled_dot_product_attention": _NO_PRODUCT,
    "batch_norm": "Fold it first: compress_model(..., fold=True)",
    "avg_pool2d": "Make it a module, nn.AvgPool2d",
    STATE: "NIR's nodes return spikes: let the model return those",
}


class ModelRefused(ParameterError):
    """The model has something that a NIR graph cannot hold.

    Parameters
    ----------
    text : the whole message: what the model has, and what is accepted.
    """

    def __init__(self, text: str) -> None:
        shown, _, accepted = text.partition("; ")
        super().__init__("model", None, accepted, shown=shown)
        self.args = (text,)

    def __str__(self) -> str:
        return str(self.args[0])


def no_edge(operations: tuple[Operation, ...], sources: Iterable[str], end: str) -> str:
    """Returns the message that operations between the nodes `sources` and `end` are no edge."""
    operation = next((o for o in operations if o.function != "add"), operations[0])
    text = (
        f"model has {operation.function} in {operation.caller}, between {listed(sources)} and {end}, "
        "which NIR cannot hold; accepted between nodes are additions and reshapes"
    )
    advice = _ADVICE.get(operation.function)
    return text if advice is None else f"{text}. {advice}"


def listed(names: Iterable[str]) -> str:
    """Returns names of nodes as messages show them."""
    return ", ".join(node_label(name) for name in names) or "nothing"


def node_label(name: str) -> str:
    """Returns the name of a node as messages show it."""
    return "its input" if name == INPUT else name or "the model itself"
