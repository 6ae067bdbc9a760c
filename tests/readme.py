"""What the README shows, to be tested as it is pasted."""

from __future__ import annotations

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def readme_snippet(section: str) -> str:
    """The Python of a section of the README."""
    text = README.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2]
    found = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert found is not None, section
    return found.group(1)
