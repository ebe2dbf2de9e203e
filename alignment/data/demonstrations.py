"""Demonstrations: prompts and responses of the expert, read from data sets."""

import re
from pathlib import Path
from typing import NamedTuple

from alignment.data.conversations import Turns
from alignment.data.formats import Format, prompt_and_response, read_records
from alignment.data.rows import Values

METRIC_NAME = re.compile(r"[\w .:-]+")
"""Part of the name of a metric, as all experiment trackers take it."""
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
    columns: Values = {}  # noqa: RUF012 - never changed
    """All values of the row by key, if they were asked for."""

    @property
    def responses(self) -> tuple[str]:
        """The response as a tuple of one, as PromptAndResponses has it."""
        return (self.response,)


def read_demonstrations(
    source: str | Path,
    context_column: str | None = None,
    *,
    keeps_columns: bool = False,
    group_column: str | None = None,
) -> list[Demonstration]:
    """Read demonstrations: prompts and responses, instructions, questions, or chat messages.

    A conversation gives one demonstration: its last message, which is the assistant's, is the
    response. Other keys are ignored.

    Args:
        source: a file, a folder or a name on the hub, as alignment.data.rows.read_rows takes it.
        context_column: key of the context, which every row must have.
        keeps_columns: whether to keep all values of each row.
        group_column: key that every row must have, by which responses are evaluated.

    Raises:
        ValueError: naming the source, the row, what is wrong and the remedy.
    """

    def read(values: Values, form: Format) -> Demonstration:
        demonstration = _demonstration(values, form)
        if context_column is not None:
            context = _context(values, form, context_column)
            demonstration = demonstration._replace(context=context)
        if group_column is not None:
            _require_group(values, group_column)
        return demonstration._replace(columns=values) if keeps_columns else demonstration

    return read_records(source, SETTING, read)


def _require_group(values: Values, column: str) -> None:
    """Refuse a row that lacks the column which evaluation.group_by names, or has no name there."""
    if column not in values:
        raise ValueError(
            f'has no "{column}", which evaluation.group_by names; add it, or remove the row'
        )
    if not METRIC_NAME.fullmatch(str(values[column])):
        raise ValueError(
            f'"{column}", which evaluation.group_by names, is {values[column]!r}; the name of a '
            "group has letters, digits, spaces and .:_- only, since it is part of a metric's name"
        )


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
