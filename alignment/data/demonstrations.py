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
    context: str = ""
    """What only the scorers of responses read, before the prompt."""

    @property
    def responses(self) -> tuple[str]:
        """The response as a tuple of one, as PromptAndResponses has it."""
        return (self.response,)


def read_demonstrations(
    source: str | Path, context_column: str | None = None
) -> list[Demonstration]:
    """Read demonstrations: prompts and responses, instructions, questions, or chat messages.

    A conversation gives one demonstration: its last message, which is the assistant's, is the
    response. Other keys are ignored.

    Args:
        source: a file, a folder or a name on the hub, as alignment.data.rows.read_rows takes it.
        context_column: key of the context, which every row must have.

    Raises:
        ValueError: naming the source, the row, what is wrong and the remedy.
    """

    def read(values: Values, form: Format) -> Demonstration:
        demonstration = _demonstration(values, form)
        if context_column is None:
            return demonstration
        return demonstration._replace(context=_context(values, form, context_column))

    return read_records(source, SETTING, read)


def _context(values: Values, form: Format, column: str) -> str:
    """Return the text of the column that data.discriminator_context names."""
    if column in form.keys_the_policy_reads:
        raise ValueError(
            f'data.discriminator_context is "{column}", which the policy reads as part of the '
            "prompt or the response; move the context to a column with another name"
        )
    if column not in values:
        raise ValueError(
            f'has no "{column}", which data.discriminator_context names; add it, "" if there is no '
            "context, or remove the row"
        )
    if not isinstance(values[column], str):
        raise ValueError(
            f'"{column}", which data.discriminator_context names, is '
            f"{type(values[column]).__name__}, not a string; write it as text"
        )
    return str(values[column])


def _demonstration(values: Values, form: Format) -> Demonstration:
    if form.holds != "demonstrations":
        renamed = f'; if "{form.label}" is no label, rename it' if form.label else ""
        raise ValueError(
            f"these are {form}, not demonstrations; give them as preferences.path, and "
            f"demonstrations as {SETTING}{renamed}"
        )
    prompt, response = prompt_and_response(values, form)
    if not response.strip():
        key = form.responses[0] if form.responses else form.prompt
        raise ValueError(f'the response ("{key}") is empty; fill it, or remove the row')
    return Demonstration(prompt.text, response, prompt.history)
