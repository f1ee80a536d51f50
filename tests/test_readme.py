"""What README.md shows runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


def test_there_is_something_to_run() -> None:
    assert BLOCKS


@pytest.mark.filterwarnings("ignore")  # frameworks warn when they are imported
def test_python_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    """One after the other, as a reader would type them."""
    names: dict[str, Any] = {}
    for block in BLOCKS:
        exec(compile(block, str(README), "exec"), names)
    printed = capsys.readouterr().out
    assert "exact integers" in printed  # out.log is printed, and says which path ran
    assert "LIF(tau=2.0, decay_input=True)" in printed  # the plan
    assert f"of {names['result'].layers[0].shape[0] * 9 + 10 * 16 * 14 * 14:,} weights" in printed
