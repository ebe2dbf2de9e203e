"""Detects the format of a data set from the keys of its first row.

A row has a prompt and one or more responses. The prompt is a text, messages, or the common
beginning of several conversations. The responses are one of the expert (demonstrations), a better
and a worse one (pairs), several in order (rankings), or one with a label (single labels). Every row
of a source must have the format of the first; another one is an error.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from alignment.data.conversations import (
    ConversationPrompt,
    Turn,
    Turns,
    split_prompt,
    turns_of,
)
from alignment.data.rows import SourceRow, Values, read_rows

Record = TypeVar("Record")
DataKind = Literal["demonstrations", "pairs", "rankings", "single labels"]
MESSAGES = ("messages", "conversations")
"""Keys of a chat; in a row with chosen and rejected it is the prompt."""
PROMPTS = ("prompt", "instruction", "question", *MESSAGES)
"""Keys of a prompt; the first that a row has is used."""
RESPONSES = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
)
"""Keys of a prompt and its response; the first pair that a row has is used."""
INPUTS = ("input", "context")
"""Keys of the input of an instruction or a question, which is appended on a new line."""
LABELS = ("label", "kto_tag")
"""Keys that say whether a single response is desirable."""
SHAPES: dict[type, str] = {str: "text", dict: "message", list: "messages"}
KNOWN = (
    "prompt and response (or completion), instruction and output, question and answer, messages "
    "or conversations; chosen and rejected; prompt and responses, best first or with ranks; any "
    "response with label or kto_tag"
)


class Format(NamedTuple):
    """The keys of a row and the shapes of their values."""

    holds: DataKind
    prompt: str | None
    """Its key; None if the prompt is the common beginning of the responses."""
    responses: tuple[str, ...]
    """Their keys; none if the messages end with the response."""
    label: str | None
    """The key of a single label."""
    shapes: tuple[str, ...]
    """Shapes of prompt, if it has a key, and responses: "text", "message", "messages" or "list"."""

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys that every row must have."""
        return tuple(key for key in (self.prompt, *self.responses, self.label) if key)

    @property
    def keys_the_policy_reads(self) -> set[str]:
        """The keys whose values may stand in the policy's prompt or in a response."""
        inputs = INPUTS if self.prompt in {"instruction", "question"} else ()
        return {*self.keys, *inputs, "system", "history"}

    @property
    def is_transcripts(self) -> bool:
        """Whether whole conversations are written in one text each, as in HH-RLHF."""
        return self.prompt is None and self.shapes[0] == "text"

    def __str__(self) -> str:
        """Describe the format: pairs of "prompt" (text), "chosen" (text), "rejected" (text)."""
        shapes = ["transcript"] * 2 if self.is_transcripts else self.shapes
        names = [f'"{key}" ({shape})' for key, shape in zip(self.keys, shapes, strict=False)]
        label = [f'"{self.label}"'] if self.label else []
        return f"{self.holds} as {', '.join([*names, *label])}"


def detect_format(values: Values) -> Format:
    """Return the format of a row.

    Raises:
        ValueError: if its keys fit no known format, or a value has the wrong type.
    """
    prompt = _first(PROMPTS, values)
    if "chosen" in values and "rejected" in values:
        return _format("pairs", values, prompt, ("chosen", "rejected"))
    if prompt and "responses" in values:
        return _format("rankings", values, prompt, ("responses",))
    label = _first(LABELS, values)
    holds: DataKind = "single labels" if label else "demonstrations"
    for key, response in RESPONSES:
        if key in values and response in values:
            return _format(holds, values, key, (response,), label)
    if chat := _first(MESSAGES, values):
        return _format(holds, values, chat, (), label)
    raise ValueError(
        f"its keys are {', '.join(map(str, values)) or 'none'}, which is no known format; give "
        f"{KNOWN}"
    )


def detected_format(source: str | Path, setting: str) -> Format:
    """Return the format of the first row of a source. Raises ValueError as read_records does."""
    return next(_checked(source, setting))[1]


def read_records(
    source: str | Path, setting: str, record_of: Callable[[Values, Format], Record]
) -> list[Record]:
    """Read every row of a source as a record.

    Args:
        setting: the setting of the job file that names the source, for errors.
        record_of: converts the values of a row; raises ValueError if it cannot.

    Raises:
        ValueError: naming the source, the row, what is wrong and the remedy.
    """
    records = []
    for row, form in _checked(source, setting):
        try:
            records.append(record_of(row.values, form))
        except ValueError as error:
            raise ValueError(f"{row.place}: {error}") from error
    return records


def prompt_turns(values: Values, form: Format) -> Turns:
    """Return the turns before the responses: system, history, prompt and input of a row.

    Returns:
        The turns; none if the responses begin with them.

    Raises:
        ValueError: if a value has the wrong type or is empty.
    """
    if form.prompt is None:
        return ()
    given = values[form.prompt]
    before = (*_system_turns(values), *_history_turns(values))
    if not isinstance(given, str):
        turns = turns_of(given, form.prompt)
        if before and turns[0].role == "system":
            raise ValueError(
                f'"{form.prompt}" begins with a system message although the row has "system" or '
                '"history" as well; keep one of the two'
            )
        return (*before, *turns)
    subject = _first(INPUTS, values) if form.prompt in {"instruction", "question"} else None
    texts = [given, _text(values, subject)] if subject else [given]
    if not any(text.strip() for text in texts):
        raise ValueError(f'"{form.prompt}" is empty; fill it, or remove the row')
    return (*before, Turn("user", "\n".join(text for text in texts if text)))


def response_turns(values: Values, key: str) -> Turns:
    """Return the turns of a response; a text is one turn of the assistant."""
    given = values[key]
    return (Turn("assistant", given),) if isinstance(given, str) else turns_of(given, key)


def prompt_and_response(values: Values, form: Format) -> tuple[ConversationPrompt, str]:
    """Return the prompt and the response, the assistant's last turn, of a row with one response.

    Raises:
        ValueError: if the row does not end with a response, or has no message of the user before.
    """
    responses = (response_turns(values, key) for key in form.responses)
    turns = sum(responses, prompt_turns(values, form))
    if turns[-1].role != "assistant":
        raise ValueError(
            f"the last message is the {turns[-1].role}'s; it must be the assistant's, the response"
        )
    return split_prompt(turns[:-1]), turns[-1].text


def _checked(source: str | Path, setting: str) -> Iterator[tuple[SourceRow, Format]]:
    """Yield every row with the format of the first, after checking that it has this format."""
    form = None
    for row in read_rows(source, setting):
        try:
            form = form or detect_format(row.values)
            _require_fit(row.values, form)
        except ValueError as error:
            raise ValueError(f"{row.place}: {error}") from error
        yield row, form
    if form is None:
        raise ValueError(
            f'{source}: holds no rows; write {{"prompt": "...", "response": "..."}} lines'
        )


def _require_fit(values: Values, form: Format) -> None:
    missing = [key for key in form.keys if key not in values]
    if missing:
        raise ValueError(f'has no "{missing[0]}"; add it, or remove the row')
    found = detect_format(values)
    if found != form:
        raise ValueError(
            f"reads as {found}, but the first row as {form}; give rows of one format at a time"
        )


def _format(
    holds: DataKind,
    values: Values,
    prompt: str | None,
    responses: tuple[str, ...],
    label: str | None = None,
) -> Format:
    """Add the shapes of the values to a format, and check them."""
    if label and not isinstance(values[label], bool):
        raise ValueError(
            f'"{label}" is {values[label]!r}; a label must be true or false; change it, or rename '
            "the key if it means something else"
        )
    keys = [key for key in (prompt, *responses) if key]
    for key in keys:
        kind = type(values[key])
        if kind not in SHAPES or (key in {*MESSAGES, "responses"} and kind is not list):
            wanted = "list" if key in {*MESSAGES, "responses"} else "string or a list of messages"
            raise ValueError(f'"{key}" is {kind.__name__}, not a {wanted}; write it as one')
    shapes = ("list" if key == "responses" else SHAPES[type(values[key])] for key in keys)
    return Format(holds, prompt, responses, label, tuple(shapes))


def _first(keys: tuple[str, ...], values: Values) -> str | None:
    return next((key for key in keys if key in values), None)


def _text(values: Values, key: str) -> str:
    """Return an optional text of a row; "" if it has none."""
    text = values.get(key, "")
    if not isinstance(text, str):
        raise ValueError(f'"{key}" is {type(text).__name__}, not a string; write it as text')
    return text


def _system_turns(values: Values) -> Turns:
    text = _text(values, "system")
    return (Turn("system", text),) if text.strip() else ()


def _history_turns(values: Values) -> Turns:
    """Return the turns of Alpaca's history: pairs of a user's and an assistant's text."""
    history = values.get("history", [])
    is_pairs = isinstance(history, list) and all(
        isinstance(pair, list | tuple) and [type(text) for text in pair] == [str, str]
        for pair in history
    )
    if not is_pairs:
        raise ValueError("\"history\" must be a list of [user's text, assistant's text] pairs")
    roles: tuple[Literal["user", "assistant"], ...] = ("user", "assistant")
    return tuple(
        Turn(role, text) for pair in history for role, text in zip(roles, pair, strict=True)
    )
