"""What the expert said: demonstrations, read whole and checked row by row."""

from pathlib import Path
from typing import NamedTuple

from alignment.data.conversations import Turns
from alignment.data.formats import Format, answered_exchange, read_records
from alignment.data.rows import Values

SETTING = "data.path"
"""What names demonstrations in a job file."""


class Demonstration(NamedTuple):
    """One prompt and what the expert answered."""

    prompt: str
    response: str
    history: Turns = ()
    """The turns before the prompt, a system message included."""

    @property
    def responses(self) -> tuple[str]:
        """The response, as a comparison has several."""
        return (self.response,)


def read_demonstrations(source: str | Path) -> list[Demonstration]:
    """Read demonstrations: prompts and responses, instructions, questions, or chat messages.

    A conversation gives one demonstration: its last message, which is the assistant's, is the
    response. Further keys are left alone.

    Args:
        source: a file, a folder or a name on the hub, as alignment.data.rows.read_rows takes it.

    Returns:
        One demonstration a row, in order.

    Raises:
        ValueError: naming source and row, what is wrong, and the remedy.
    """
    return read_records(source, SETTING, _demonstration)


def _demonstration(values: Values, form: Format) -> Demonstration:
    if form.holds != "demonstrations":
        raise ValueError(
            f"these are {form}, and not demonstrations; give them as preferences.path, and "
            f"demonstrations as {SETTING}"
        )
    exchange, response = answered_exchange(values, form)
    if not response.strip():
        key = form.answers[0] if form.answers else form.prompt
        raise ValueError(f'the response ("{key}") is empty; fill it, or remove the row')
    return Demonstration(exchange.prompt, response, exchange.history)
