"""Where the calls of a weight layer have their time and sample axes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import ParameterError


@dataclass(frozen=True)
class Layout:
    """How the calls of a weight layer during one forward hold the time steps.

    Attributes
    ----------
    steps : T; 1 where the time steps do not matter (current Hessian).
    step_of_call : for a loop over time, the step of each call, -1 where nothing reads its output (that
        of a recurrent layer after the last step); None where every call holds all steps.
    axis : the leading axis that is time; None where it is flattened together with others.
    inner : flattened, the positions of one step that lie together; 0 where all of one step do.
    delay : steps that a recurrent layer's input comes before the current it makes.
    """

    steps: int
    step_of_call: tuple[int, ...] | None = None
    axis: int | None = None
    inner: int = 0
    delay: int = 0

    def split(self, lead: tuple[int, ...]) -> tuple[int, int, int]:
        """Returns the leading axes as (outer, steps, inner).

        Raises ParameterError where the steps do not fit.
        """
        T = self.steps
        if self.axis is not None:
            if len(lead) <= self.axis or lead[self.axis] != T:
                raise ParameterError(
                    "calibration",
                    lead,
                    f"accepted are {T} time steps, as in the example, on axis {self.axis}",
                    verb="has",
                    shown=f"a batch that gives the layer leading axes {list(lead)}",
                )
            return math.prod(lead[: self.axis]), T, math.prod(lead[self.axis + 1 :])
        leading, block = math.prod(lead), T * max(self.inner, 1)
        if leading % block:
            raise ParameterError(
                "calibration",
                lead,
                f"accepted with {T} time steps, as in the example, is a multiple of {block}",
                verb="has",
                shown=f"a batch that gives the layer {leading} leading positions",
            )
        return (leading // block, T, self.inner) if self.inner else (1, T, leading // T)


def layout_of(
    calls: list[tuple[tuple[int, ...], NDArray[np.int64]]],
    steps: int,
    batch_first: bool,
    one_sample: bool,
) -> tuple[Layout | None, str]:
    """Infers the layout from the time steps of each position of each call.

    Parameters
    ----------
    calls : for each call, its leading axes and `LayerCall.step_of`.
    steps : T of the consumers.
    batch_first : whether the consumers have the batch axis first; it decides what the calls leave open.
    one_sample : whether the example was a batch of one, which leaves more open.

    Returns
    -------
    The layout, or None where the calls have none, and a note on what was assumed or is wrong ("" where
    nothing is).
    """
    tables = [table for _, table in calls]
    if any((table == -2).any() for table in tables):
        return None, "its output mixes time steps before it is integrated"
    marked = [np.unique(table[table >= 0]) for table in tables]
    unread = next((i for i, k in enumerate(reversed(marked)) if k.size), len(calls))
    read = marked[: len(calls) - unread]
    if len(calls) > 1 and read and all(k.size == 1 for k in read):  # a loop over time
        return Layout(steps, (*(int(k[0]) % steps for k in read), *([-1] * unread))), ""
    layouts: set[Layout] = set()
    open_ = False
    for lead, table in calls:
        options = [
            layout for layout in _candidates(lead, steps, batch_first) if _fits(layout, lead, table)
        ]
        if not options:
            return None, f"its calls do not hold the {steps} time steps in an order that is known"
        if options[0].axis is None and not options[0].inner:
            # Flattened, and one step's positions lie together: of a batch of one, or time first.
            others = [layout for layout in options if layout.inner]
            open_ = open_ or (bool(others) and steps > 1 and one_sample)
            if batch_first and others:
                options = others
        layouts.add(options[0])
    if len(layouts) != 1:
        return None, "its calls differ in where the time axis is"
    unmarked = steps > 1 and all(k.size == 0 for k in marked)
    axis = "second" if batch_first else "first"
    assumed = f"time assumed to be the {axis} axis"
    if open_ and not unmarked:
        assumed += ": the example is a batch of one"
    return layouts.pop(), assumed if unmarked or open_ else ""


def _candidates(lead: tuple[int, ...], steps: int, batch_first: bool) -> list[Layout]:
    """Returns the ways to hold the steps: on an axis of their own, or flattened with others."""
    own = [Layout(steps, None, at) for at, extent in enumerate(lead) if extent == steps]
    own = own[::-1] if batch_first else own
    rest, remainder = divmod(math.prod(lead), steps)
    flat = [] if remainder else [i for i in range(1, rest + 1) if rest % i == 0]
    return [
        *(own if len(lead) > 1 else []),
        *([Layout(steps)] if flat else []),
        *(Layout(steps, inner=i) for i in flat),
    ]


def _fits(layout: Layout, lead: tuple[int, ...], table: NDArray[np.int64]) -> bool:
    """Whether a layout agrees with the positions whose time step is known."""
    outer, steps, inner = layout.split(lead)
    expected = np.broadcast_to(np.arange(steps)[None, :, None], (outer, steps, inner)).ravel()
    return bool(((table < 0) | (table == expected)).all())
