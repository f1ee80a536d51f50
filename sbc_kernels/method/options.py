"""The options of a layer, and what a method is.

An option is one field of `LayerOptions`: its name, default, check and line of help stand there and
nowhere else. `compress_layer` and `compress_model` write it in their signatures too, and a test holds
these to the record.

A method is one subclass of `Method` in a file beside this one, and one line in ``method/__init__.py``.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, NamedTuple

from ..errors import ParameterError
from ..sparsity import Pattern, parse_sparsity
from .damping import Damping
from .fields import Choice, Flag, Integer, Number, Sparsity, check_fields, option
from .rows import Rows

__all__ = [
    "DEFAULT_SPARSITY",
    "GRIDS",
    "HESSIANS",
    "METHODS",
    "Curve",
    "LayerOptions",
    "Method",
    "Outcome",
    "Use",
    "less_memory",
]

GRIDS = ("mse", "absmax")
HESSIANS = ("smp", "current")
DEFAULT_SPARSITY = 0.9  # where neither a sparsity nor bits are asked for
Curve = tuple[tuple[float, float], ...]  # (sparsity, relative error)


class Use(Enum):
    """Whether a method takes a sparsity, or bits."""

    NEVER = "never"
    OPTIONAL = "optional"
    REQUIRED = "required"


class Outcome(NamedTuple):
    """The result of a method beside the rows."""

    damping: Damping
    curve: Curve = ()


class Method:
    """A way to decide which weights of a layer are pruned, and to which levels the others are rounded.

    Attributes
    ----------
    doc : one line of help.
    baseline : whether it looks at weights only. Then levels reach to the largest weight by default
        (grid "absmax"), and a model is calibrated in parallel, its biases and BatchNorms as they are.
    sparsity, bits : whether it prunes, and whether it quantizes.
    """

    doc: str = ""
    baseline: bool = False
    sparsity: Use = Use.OPTIONAL
    bits: Use = Use.OPTIONAL

    def adapted(self, options: LayerOptions) -> LayerOptions:
        """Returns the options as this method needs them. Raises ParameterError where they clash."""
        return options

    def order_key(self, options: LayerOptions) -> Hashable:
        """Returns a key that is equal for options with the same order; None where there is no order."""
        return None

    def order(self, parts: list[Rows], options: LayerOptions, log: list[str]) -> Any:
        """Returns what does not depend on how much is pruned; it is reused between sparsities."""
        return None

    def compress(
        self, parts: list[Rows], order: Any, options: LayerOptions, log: list[str]
    ) -> Outcome:
        """Sets the result, mask, codes and grid of every part, by resolved options.

        A pruned weight is +0, never -0, as `rows.masked` makes it: files hold the mask alone.

        Parameters
        ----------
        parts : the rows of each convolution group of one layer; they share the layer's quota.
        order : what `order` returned for these parts.
        """
        raise NotImplementedError

    def cost(self, d_out: int, d_in: int) -> float:
        """Returns the estimated multiply-adds of a layer, by which progress bars move."""
        return float(d_out * d_in)

    def work_bytes(self, d_out: int, d_in: int) -> int:
        """Returns the bytes that a layer takes while it is compressed, beside the Hessian given."""
        return 32 * d_out * d_in


METHODS: dict[str, Method] = {}  # by the name that users write; filled in method/__init__.py


def less_memory(options: LayerOptions) -> list[str]:
    """Returns the names of the methods that compensate, too, and need less memory for a large layer."""
    need = METHODS[options.method].work_bytes(1, 1 << 10)
    return [
        name
        for name, method in METHODS.items()
        if not method.baseline
        and method.work_bytes(1, 1 << 10) < need
        and not METHODS[options.method].baseline
        and not (method.sparsity is Use.NEVER and options.sparsity is not None)
        and not (method.bits is Use.NEVER and options.bits is not None)
    ]


@dataclass(frozen=True)
class LayerOptions:
    """The options that one layer is compressed with. Each value is checked when the record is made.

    A default of None that depends on other options is filled in by `resolved`; types are as after it.
    """

    sparsity: float | str | None = option(
        None,
        Sparsity(),
        "Fraction 0..1 of the weights to prune, or N:M, of every M consecutive inputs N are kept.",
    )
    bits: int | None = option(
        None, Integer(1, 8, optional=True), "Bits to quantize to; with a sparsity, the survivors."
    )
    method: str = option("exact", Choice(METHODS), "How weights are chosen and compensated.")
    grid: str = option(
        None,
        Choice(GRIDS, optional=True),
        "How levels are chosen. Default: mse; for baselines absmax.",
    )
    sym: bool = option(False, Flag(), "Levels symmetric about 0.")
    group_size: int = option(
        -1, Integer(1, special=-1), "Consecutive inputs that share a scale; -1 is the whole row."
    )
    act_order: bool = option(
        None,
        Flag(optional=True),
        "Quantize the strongest inputs first. Default: on; off for N:M with method blocked.",
    )
    block_size: int = option(
        128, Integer(1), "Columns that choose their mask together, with method blocked."
    )
    damp_percent: float = option(
        0.01, Number(), "Fraction of the Hessian's mean diagonal that is added to the diagonal."
    )

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def pattern(self) -> Pattern | None:
        """The parsed sparsity."""
        return None if self.sparsity is None else parse_sparsity(self.sparsity)

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return self.sparsity is None and self.bits is None

    def resolved(self) -> LayerOptions:
        """The options with every default filled in that depends on others.

        Raises
        ------
        ParameterError : two options do not go together.
        """
        method = METHODS[self.method]
        uses = {"bits": method.bits, "a sparsity": method.sparsity}
        values = (self.bits, self.sparsity)
        if any(
            (use is Use.REQUIRED and value is None) or (use is Use.NEVER and value is not None)
            for use, value in zip(uses.values(), values, strict=True)
        ):
            words = [what for what, use in uses.items() if use is Use.REQUIRED]
            words += [f"no {what.split()[-1]}" for what, use in uses.items() if use is Use.NEVER]
            raise ParameterError(
                "method", self.method, f"accepted with it is {' and '.join(words)}"
            )
        options = method.adapted(self)
        grid = options.grid or ("absmax" if method.baseline else "mse")
        act_order = True if options.act_order is None else options.act_order
        return replace(options, grid=grid, act_order=act_order)

    def require_fits(self, shape: tuple[int, int]) -> None:
        """Raises ParameterError where a weight ``[d_out, d_in]`` cannot be compressed with these."""
        if self.pattern is not None:
            self.pattern.require_fits(shape)
        if self.bits is not None and self.group_size > shape[1]:
            raise ParameterError(
                "group_size", self.group_size, f"-1 or an integer in 1..{shape[1]}"
            )
