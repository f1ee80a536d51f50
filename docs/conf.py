"""Configuration of Sphinx: Markdown pages, and an API reference made from the docstrings.

sphinx-build -W --keep-going -b html docs build/docs
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))  # the package is the installed one

project = "sbc-kernels"
try:
    release = metadata.version(project)
except metadata.PackageNotFoundError:
    release = "source tree"
copyright = "the sbc-kernels authors, Apache-2.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "docstrings",  # this and the following ones are in extensions/
    "linked_names",
    "mathml",
    "command_line",
]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

nitpicky = True
default_role = "code"
smartquotes = False  # readers copy "mse" with straight quotes
exclude_patterns = ["extensions"]

autodoc_typehints = "none"  # the text has shapes and meanings, which types of arrays do not express
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "furo"
html_title = f"sbc-kernels {release}"
html_math_renderer = "mathml"
html_static_path = ["static"]
html_css_files = ["sbc.css"]
html_show_sphinx = False
pygments_style = "friendly"
highlight_language = "none"
