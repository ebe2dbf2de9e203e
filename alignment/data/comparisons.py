"""Comparisons: responses with the labels of annotators, read from data sets."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from alignment.data.conversations import ConversationPrompt, Turns, split_prompt, transcript_turns
from alignment.data.demonstrations import Demonstration
from alignment.data.formats import (
    Format,
    prompt_and_response,
    prompt_turns,
    read_records,
    response_turns,
)
from alignment.data.rows import Values

SETTING = "preferences.path"
"""The setting of the job file that names comparisons."""
LabelKind = Literal["pairs", "ties", "rankings", "single labels"]
"""Kind of labels: the better of two responses, the same with ties allowed, the order of several, or
one response as desirable or undesirable."""


class Comparison(NamedTuple):
    """Responses to one prompt in the order of the annotators.

    A single label is a comparison of one response, of rank 0 if it is desirable and 1 if it is not.
    A response may be empty.
    """

    prompt: str
    responses: tuple[str, ...]
    """Best first."""
    ranks: tuple[int, ...]
    """[response] rank from 0, the best; equal ranks are a tie."""
    history: Turns = ()
    """The turns before the prompt, a system message included."""
    strength: float | None = None
    """Strength of the preference for the best response, at least 0, on any scale."""
    domain: str | None = None
    """The source of the prompt; each is measured by itself."""


def read_comparisons(source: str | Path) -> list[Comparison]:
    """Read comparisons: chosen and rejected responses, rankings, or single labels.

    Any row may also have "strength" or "margin" (a number, at least 0) and "domain" (a string), and
    a pair "tie" (true or false). Other keys are ignored.

    Args:
        source: a file, a folder or a name on the hub, as alignment.data.rows.read_rows takes it.

    Raises:
        ValueError: naming the source, the row, what is wrong and the remedy.
    """
    return read_records(source, SETTING, _comparison)


def label_kind(rows: Sequence[Comparison]) -> LabelKind:
    """Return the kind of labels of one or more comparisons.

    Returns:
        "rankings" if any row has three or more responses, else "ties" if any pair is a tie.

    Raises:
        ValueError: if some rows label a single response and others compare several.
    """
    sizes = {len(row.responses) for row in rows}
    if 1 in sizes and len(sizes) > 1:
        raise ValueError(
            "some rows label a single response and others compare several; give one kind at a time"
        )
    if max(sizes) != 2:
        return "single labels" if sizes == {1} else "rankings"
    return "ties" if any(row.ranks[0] == row.ranks[1] for row in rows) else "pairs"


def best_responses(rows: Sequence[Comparison]) -> list[Demonstration]:
    """Return the best response of each comparison as a demonstration.

    Of tied responses the first is taken. A single undesirable response gives no demonstration.

    Raises:
        ValueError: if no row gives a demonstration.
    """
    best = [
        Demonstration(row.prompt, row.responses[0], row.history)
        for row in rows
        if row.ranks[0] == 0
    ]
    if not best:
        raise ValueError(
            f"all {len(rows)} labels are of undesirable responses, so none can be used as a "
            "demonstration; give demonstrations as data.path"
        )
    return best


def _comparison(values: Values, form: Format) -> Comparison:
    strength, domain = _strength(values), _domain(values)
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    match form.holds:
        case "pairs":
            prompt, responses = _pair(values, form)
            ranks = (0, 0) if _flag(values, "tie") else (0, 1)
        case "rankings":
            prompt = split_prompt(prompt_turns(values, form))
            responses, ranks = _ranking(values)
        case "single labels":
            prompt, response = prompt_and_response(values, form)
            responses, ranks = (response,), (0,) if values[str(form.label)] else (1,)
        case "demonstrations":
            raise ValueError(
                f"these are {form}, not comparisons; give them as data.path, and comparisons as "
                f"{SETTING}"
            )
    return Comparison(prompt.text, responses, ranks, prompt.history, strength, domain)


def _pair(values: Values, form: Format) -> tuple[ConversationPrompt, tuple[str, str]]:
    """Return the common prompt of chosen and rejected, and their last messages."""
    if form.is_transcripts:
        chosen, rejected = (transcript_turns(values[key], key) for key in form.responses)
    else:
        chosen, rejected = (response_turns(values, key) for key in form.responses)
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    num_shared = next(
        (i for i, (ours, theirs) in enumerate(pairs) if ours != theirs),
        min(len(chosen), len(rejected)) - 1,
    )
    rests = chosen[num_shared:], rejected[num_shared:]
    if any(len(rest) != 1 or rest[0].role != "assistant" for rest in rests):
        raise ValueError(
            f'"chosen" and "rejected" differ after {num_shared} messages, and {len(rests[0])} and '
            f"{len(rests[1])} follow; a pair must share all but the assistant's last message: cut "
            "both behind the first message in which they differ, or remove the row"
        )
    turns = _joined(prompt_turns(values, form), chosen[:num_shared])
    return split_prompt(turns), (rests[0][0].text, rests[1][0].text)


def _joined(prompt: Turns, shared: Turns) -> Turns:
    """Join a prompt and the beginning of the responses, which may repeat the prompt."""
    if shared[max(len(shared) - len(prompt), 0) :] == prompt:
        return shared
    lengths = range(min(len(prompt), len(shared)), -1, -1)
    overlap = next(n for n in lengths if prompt[len(prompt) - n :] == shared[:n])
    if not overlap and prompt and shared and prompt[-1].role == shared[0].role == "user":
        raise ValueError(
            'the responses begin with a message that is not the prompt; remove "prompt", or all '
            "but the last message of the responses"
        )
    return prompt + shared[overlap:]


def _ranking(values: Values) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the responses best first, and their ranks from 0 without gaps."""
    responses = []
    for given in values["responses"]:
        [*rest, turn] = response_turns({"responses": given}, "responses")
        if rest or turn.role != "assistant":
            raise ValueError('each of "responses" must be a text or one message of the assistant')
        responses.append(turn.text)
    if len(responses) < 2:
        raise ValueError(f'"responses" holds {len(responses)}; a ranking needs two or more')
    ranks = values.get("ranks", list(range(len(responses))))
    if not (
        isinstance(ranks, list)
        and [type(rank) for rank in ranks] == [int] * len(responses)
        and min(ranks) in {0, 1}
        and max(ranks) - min(ranks) < len(ranks)
    ):
        raise ValueError(
            f'"ranks" is {ranks!r}; it must hold a whole number for each of {len(responses)} '
            "responses, 0 or 1 for the best, equal ones for a tie"
        )
    in_order = sorted(range(len(ranks)), key=ranks.__getitem__)
    places = sorted(set(ranks))
    return (
        tuple(responses[i] for i in in_order),
        tuple(places.index(ranks[i]) for i in in_order),
    )


def _flag(values: Values, key: str) -> bool:
    flag = values.get(key, False)
    if not isinstance(flag, bool):
        raise ValueError(f'"{key}" is {flag!r}; it must be true or false')
    return flag


def _strength(values: Values) -> float | None:
    for key in ("strength", "margin"):
        if key in values:
            number = values[key]
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if not is_number or not 0.0 <= number < math.inf:
                raise ValueError(f'"{key}" is {number!r}; it must be a number from 0 up')
            return float(number)
    return None


def _domain(values: Values) -> str | None:
    domain = values.get("domain")
    if domain is not None and not isinstance(domain, str):
        raise ValueError(f'"domain" is {domain!r}; it must be a string')
    return domain
