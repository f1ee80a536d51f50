"""Links inline code that is exactly a public name to the documentation of that name.

Pages and docstrings can therefore write plain names, such as `compress_layer`, and a public name
that is not documented causes a warning wherever it is mentioned.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from inspect import isclass
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

MODULES = (
    "sbc_kernels",
    "sbc_kernels.model",
    "sbc_kernels.metrics",
    "sbc_kernels.files",
    "sbc_kernels.report",
)
NOT_IN = (nodes.reference, nodes.term, nodes.title, addnodes.pending_xref)


def public_names() -> dict[str, Any]:
    """Full name and object of each short name.

    Names of the package take precedence over its modules'.
    """
    names: dict[str, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # frameworks warn when they are imported
        for name in reversed(MODULES):
            module = import_module(name)
            names |= {key: (f"{name}.{key}", getattr(module, key)) for key in module.__all__}
    return names


class LinkNames(SphinxTransform):
    default_priority = 500

    def apply(self, **kwargs: Any) -> None:
        names = public_names()
        for node in list(self.document.findall(nodes.literal)):
            if isinstance(node.parent, NOT_IN):
                continue
            target = _target(names, node.astext())
            if target is not None:
                link = addnodes.pending_xref(
                    "", refdomain="py", reftype="obj", reftarget=target,
                    refexplicit=True, refwarn=True, refdoc=self.env.docname,
                )  # fmt: skip
                node.replace_self(link)
                link += node


def _target(names: dict[str, Any], text: str) -> str | None:
    """The full name that `text` refers to, or None."""
    name, _, member = text.removeprefix("sbc.").removesuffix("()").partition(".")
    if name in ("metrics", "files", "report") and member in names and text.startswith("sbc."):
        name, member = member, ""
    if name not in names:
        return None
    full, obj = names[name]
    if not member:
        return str(full)
    value = getattr(obj, member, None) if isclass(obj) else None
    documented = callable(value) or isinstance(value, property)
    return f"{full}.{member}" if documented and not member.startswith("_") else None


def setup(app: Any) -> dict[str, bool]:
    app.add_transform(LinkNames)
    return {"parallel_read_safe": True}
