"""The page's text, from the report dictionary and the template."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from importlib.resources import files

import jinja2
from markupsafe import Markup

from .figures import plots_of
from .parsing import parse_report
from .sections import PJ_PER_AC, PJ_PER_MAC, options_of, remarks_of, steps_of, tiles_of
from .svg import PALETTE, style
from .tables import layer_table

__all__ = ["page"]


def page(report: Mapping[str, object]) -> str:
    """Returns the page of `write_html` as text. Equal reports give equal bytes."""
    checked = parse_report(report)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    script = _part("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    with style():
        plots = plots_of(checked)
    return environment.from_string(_part("page.html")).render(
        report=checked,
        tiles=tiles_of(checked),
        remarks=remarks_of(checked.layers),
        plots=plots,
        table=layer_table(checked.layers, checked.comparison),
        options=options_of(checked),
        palette=PALETTE,
        css=Markup(_part("page.css")),
        js=Markup(script),
        digest=digest,
        energy=(PJ_PER_AC, PJ_PER_MAC),
        steps=steps_of,
    )


def _part(name: str) -> str:
    """Returns one of the files page.html, page.css and page.js."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
