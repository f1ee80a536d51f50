"""How the rows of a layer are compressed: one file a method, one line here.

`METHODS` maps the names that users write to methods. One of your own is a subclass of `Method`, added
to the dictionary before `compress_layer` or `compress_model` is called.
"""

from __future__ import annotations

from .exact import Exact
from .nearest import Magnitude, RoundToNearest
from .options import METHODS, LayerOptions, Method, Outcome, Use
from .sweep import Blocked

__all__ = ["METHODS", "LayerOptions", "Method", "Outcome", "Use"]

METHODS |= {
    "exact": Exact(),
    "blocked": Blocked(),
    "magnitude": Magnitude(),
    "rtn": RoundToNearest(),
}
