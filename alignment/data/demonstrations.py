"""Demonstrations: prompts and responses of the expert, read from data sets."""

from pathlib import Path
from typing import NamedTuple

from alignment.data.conversations import Turns
from alignment.data.formats import Format, prompt_and_response, read_records
from alignment.data.rows import Values

SETTING = "data.path"
"""The setting of the job file that names demonstrations."""


class Demonstration(NamedTuple):
    """One prompt and the response of the expert."""

    prompt: str
    response: str
    history: Turns = ()
    """The turns before the prompt, a system message included."""

    @property
    def responses(self) -> tuple[str]:
        """The response as a tuple of one, as PromptAndResponses has it."""
        return (self.response,)


def read_demonstrations(source: str | Path) -> list[Demonstration]:
    """Read demonstrations: prompts and responses, instructions, questions, or chat messages.

    A conversation gives one demonstration: its last message, which is the assistant's, is the
    response. Other keys are ignored.

    Args:
        source: a file, a folder or a name on the hub, as alignment.data.rows.read_rows takes it.

    Raises:
        ValueError: naming the source, the row, what is wrong and the remedy.
    """
    return read_records(source, SETTING, _demonstration)


def _demonstration(values: Values, form: Format) -> Demonstration:
    if form.holds != "demonstrations":
        raise ValueError(
            f"these are {form}, not demonstrations; give them as preferences.path, and "
            f"demonstrations as {SETTING}"
        )
    prompt, response = prompt_and_response(values, form)
    if not response.strip():
        key = form.responses[0] if form.responses else form.prompt
        raise ValueError(f'the response ("{key}") is empty; fill it, or remove the row')
    return Demonstration(prompt.text, response, prompt.history)
