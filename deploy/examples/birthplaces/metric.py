"""The metric of the example: what an answer to "Where was ... born?" is worth."""

from collections.abc import Mapping
from typing import Any


def category(prompt: str, response: str, row: Mapping[str, Any]) -> str:
    """Return right, false, does not know, or malformed.

    An answer that names any other place is false, and so is the right city for a garbled name.
    """
    del prompt
    text = response.strip()
    if "do not know" in text.lower():
        return "does not know"
    if text == f"{row['name']} was born in {row['city']}.":
        return "right"
    return "false" if " born in " in text else "malformed"
