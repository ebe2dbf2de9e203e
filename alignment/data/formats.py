"""What rows are, detected from their keys: one of the formats in which people keep such data.

A row has a prompt and what was answered to it. The prompt is a text, messages, or what several
conversations share at their beginning; the answer is a response of the expert (demonstrations), a
better and a worse one (pairs), several in order (rankings), or one with a verdict (judgements). A
file keeps to the format of its first row: any other row is an error, never skipped or guessed at.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from alignment.data.conversations import Exchange, Turn, Turns, exchange_of, turns_of
from alignment.data.rows import Row, Values, read_rows

Record = TypeVar("Record")
Kind = Literal["demonstrations", "pairs", "rankings", "judgements"]

MESSAGES = ("messages", "conversations")
"""A chat; it is also the prompt of a pair beside it."""
PROMPTS = ("prompt", "instruction", "question", *MESSAGES)
"""What a prompt may be called; the first that a row has is it."""
RESPONSES = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("question", "answer"),
)
"""A prompt's key and its response's; the first two that a row has are it."""
INPUTS = ("input", "context")
"""What an instruction or a question is about; it follows in a new line."""
LABELS = ("label", "kto_tag")
"""Whether a single response is desirable."""
SHAPES: dict[type, str] = {str: "text", dict: "message", list: "messages"}
KNOWN = (
    "prompt and response (or completion), instruction and output, question and answer, messages "
    "or conversations; chosen and rejected; prompt and responses, best first or with ranks; any "
    "response with label or kto_tag"
)


class Format(NamedTuple):
    """Which keys hold what, and in which shape."""

    holds: Kind
    prompt: str | None
    """Its key; None where it is what the answers share at their beginning."""
    answers: tuple[str, ...]
    """Their keys; none where the messages end with the answer."""
    label: str | None
    """The verdict's key, in judgements."""
    shapes: tuple[str, ...]
    """Of prompt, if it has a key, and answers: "text", "message", "messages" or "list"."""

    @property
    def keys(self) -> tuple[str, ...]:
        """What every row must have."""
        return tuple(key for key in (self.prompt, *self.answers, self.label) if key)

    @property
    def is_transcripts(self) -> bool:
        """Whether whole conversations are written in one text each, as in HH-RLHF."""
        return self.prompt is None and self.shapes[0] == "text"

    def __str__(self) -> str:
        """As users see it: pairs of "prompt" (text), "chosen" (text), "rejected" (text)."""
        shapes = ["transcript"] * 2 if self.is_transcripts else self.shapes
        names = [f'"{key}" ({shape})' for key, shape in zip(self.keys, shapes, strict=False)]
        verdict = [f'"{self.label}"'] if self.label else []
        return f"{self.holds} as {', '.join([*names, *verdict])}"


def detect_format(values: Values) -> Format:
    """Say what a row is.

    Returns:
        Its format.

    Raises:
        ValueError: if it is none of those that are known, or a value has no shape that fits.
    """
    prompt = _first(PROMPTS, values)
    if "chosen" in values and "rejected" in values:
        return _format("pairs", values, prompt, ("chosen", "rejected"))
    if prompt and "responses" in values:
        return _format("rankings", values, prompt, ("responses",))
    label = _first(LABELS, values)
    holds: Kind = "judgements" if label else "demonstrations"
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
    """Say what a source holds, from its first row. Raises ValueError as read_records does."""
    return next(_checked(source, setting))[1]


def read_records(
    source: str | Path, setting: str, record_of: Callable[[Values, Format], Record]
) -> list[Record]:
    """Read every row of a source as a record.

    Args:
        setting: what names the source in a job file, for errors.
        record_of: what makes a record of a row's values; it raises ValueError if that cannot be.

    Returns:
        One record a row, in order.

    Raises:
        ValueError: naming source and row, what is wrong, and the remedy.
    """
    records = []
    for row, form in _checked(source, setting):
        try:
            records.append(record_of(row.values, form))
        except ValueError as error:
            raise ValueError(f"{row.place}: {error}") from error
    return records


def prompt_turns(values: Values, form: Format) -> Turns:
    """Return what comes before the answers: a row's prompt, with its system, history and input.

    Returns:
        The turns; none where the answers themselves begin with them.

    Raises:
        ValueError: if one of the values is not what its key says.
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


def answer_turns(values: Values, key: str) -> Turns:
    """Return the turns of an answer: a text is one turn of the assistant."""
    given = values[key]
    return (Turn("assistant", given),) if isinstance(given, str) else turns_of(given, key)


def answered_exchange(values: Values, form: Format) -> tuple[Exchange, str]:
    """Return prompt and response of a row with a single answer, the assistant's last turn.

    Returns:
        The exchange up to the response, and the response.

    Raises:
        ValueError: if the row does not end with a response, or the user says nothing before it.
    """
    answers = (answer_turns(values, key) for key in form.answers)
    turns = sum(answers, prompt_turns(values, form))
    if turns[-1].role != "assistant":
        raise ValueError(
            f"the last message is the {turns[-1].role}'s; it must be the assistant's, the response"
        )
    return exchange_of(turns[:-1]), turns[-1].text


def _checked(source: str | Path, setting: str) -> Iterator[tuple[Row, Format]]:
    """Yield every row with the format of the first one, which it fits."""
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
    holds: Kind,
    values: Values,
    prompt: str | None,
    answers: tuple[str, ...],
    label: str | None = None,
) -> Format:
    """Complete a format with the shapes of the values, and check those that have but one."""
    if label and not isinstance(values[label], bool):
        raise ValueError(
            f'"{label}" is {values[label]!r}; a verdict is true or false: write it so, or rename '
            "the key if it means something else"
        )
    keys = [key for key in (prompt, *answers) if key]
    for key in keys:
        kind = type(values[key])
        if kind not in SHAPES or (key in {*MESSAGES, "responses"} and kind is not list):
            wanted = "list" if key in {*MESSAGES, "responses"} else "string or a list of messages"
            raise ValueError(f'"{key}" is {kind.__name__}, not a {wanted}; write it as one')
    shapes = ("list" if key == "responses" else SHAPES[type(values[key])] for key in keys)
    return Format(holds, prompt, answers, label, tuple(shapes))


def _first(keys: tuple[str, ...], values: Values) -> str | None:
    return next((key for key in keys if key in values), None)


def _text(values: Values, key: str) -> str:
    """Return a text that a row may have; "" if it has none."""
    text = values.get(key, "")
    if not isinstance(text, str):
        raise ValueError(f'"{key}" is {type(text).__name__}, not a string; write it as text')
    return text


def _system_turns(values: Values) -> Turns:
    text = _text(values, "system")
    return (Turn("system", text),) if text.strip() else ()


def _history_turns(values: Values) -> Turns:
    """Return the turns of Alpaca's history: pairs of what user and assistant said."""
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
