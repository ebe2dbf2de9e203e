"""What annotators said of responses: pairs, ties, rankings, and verdicts on single responses."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from alignment.data.conversations import Exchange, Turns, exchange_of, transcript_turns
from alignment.data.demonstrations import Demonstration
from alignment.data.formats import (
    Format,
    answer_turns,
    answered_exchange,
    prompt_turns,
    read_records,
)
from alignment.data.rows import Values

SETTING = "preferences.path"
"""What names comparisons in a job file."""

Answers = Literal["pairs", "ties", "rankings", "judgements"]
"""What annotators were asked for: the better of two, that or a draw, an order of several, a verdict
on one."""


class Comparison(NamedTuple):
    """Responses to one prompt, in the order in which annotators put them.

    A verdict on a single response is a comparison of one, of rank 0 if it is desirable and of rank
    1 if it is not. A response may be empty: silence can be the better answer.
    """

    prompt: str
    responses: tuple[str, ...]
    """Best first."""
    ranks: tuple[int, ...]
    """[response] from 0, the best; equal ranks are a tie."""
    history: Turns = ()
    """The turns before the prompt, a system message included."""
    strength: float | None = None
    """How much better the preferred response was said to be, on any scale from 0 up."""
    domain: str | None = None
    """Where the prompt comes from, to measure each source by itself."""


def read_comparisons(source: str | Path) -> list[Comparison]:
    """Read comparisons: chosen and rejected responses, rankings, or single judgements.

    Any row may also have "strength" or "margin" (a number from 0 up) and "domain" (a string), and a
    pair "tie" (true or false). Further keys are left alone.

    Args:
        source: a file, a folder or a name on the hub, as alignment.data.rows.read_rows takes it.

    Returns:
        One comparison a row, in order.

    Raises:
        ValueError: naming source and row, what is wrong, and the remedy.
    """
    return read_records(source, SETTING, _comparison)


def answers_of(rows: Sequence[Comparison]) -> Answers:
    """Say what annotators were asked for, from what they said.

    Args:
        rows: at least one.

    Returns:
        "rankings" if any row has three responses or more, "ties" if a pair is a draw.

    Raises:
        ValueError: if some rows are verdicts on single responses and others compare several.
    """
    sizes = {len(row.responses) for row in rows}
    if 1 in sizes and len(sizes) > 1:
        raise ValueError(
            "some rows judge a single response and others compare several; give one kind at a time"
        )
    if max(sizes) != 2:
        return "judgements" if sizes == {1} else "rankings"
    return "ties" if any(row.ranks[0] == row.ranks[1] for row in rows) else "pairs"


def best_responses(rows: Sequence[Comparison]) -> list[Demonstration]:
    """Let the best response of each comparison stand for a demonstration.

    Args:
        rows: the comparisons. Of responses that tie the first is taken; one that was judged by
            itself and found undesirable demonstrates nothing.

    Returns:
        At most one demonstration a row, in order.

    Raises:
        ValueError: if there is none.
    """
    best = [
        Demonstration(row.prompt, row.responses[0], row.history)
        for row in rows
        if row.ranks[0] == 0
    ]
    if not best:
        raise ValueError(
            f"all {len(rows)} judgements are of undesirable responses, so none can stand for a "
            "demonstration; give demonstrations as data.path"
        )
    return best


def _comparison(values: Values, form: Format) -> Comparison:
    strength, domain = _strength(values), _domain(values)
    responses: tuple[str, ...]
    ranks: tuple[int, ...]
    match form.holds:
        case "pairs":
            exchange, responses = _pair(values, form)
            ranks = (0, 0) if _flag(values, "tie") else (0, 1)
        case "rankings":
            exchange = exchange_of(prompt_turns(values, form))
            responses, ranks = _ranking(values)
        case "judgements":
            exchange, response = answered_exchange(values, form)
            responses, ranks = (response,), (0,) if values[str(form.label)] else (1,)
        case "demonstrations":
            raise ValueError(
                f"these are {form}, and no comparisons; give them as data.path, and comparisons as "
                f"{SETTING}"
            )
    return Comparison(exchange.prompt, responses, ranks, exchange.history, strength, domain)


def _pair(values: Values, form: Format) -> tuple[Exchange, tuple[str, str]]:
    """Return what chosen and rejected have in common, and how each of them ends."""
    if form.is_transcripts:
        chosen, rejected = (transcript_turns(values[key], key) for key in form.answers)
    else:
        chosen, rejected = (answer_turns(values, key) for key in form.answers)
    pairs = zip(chosen[:-1], rejected[:-1], strict=False)
    num_shared = next(
        (i for i, (ours, theirs) in enumerate(pairs) if ours != theirs),
        min(len(chosen), len(rejected)) - 1,
    )
    rests = chosen[num_shared:], rejected[num_shared:]
    if any(len(rest) != 1 or rest[0].role != "assistant" for rest in rests):
        raise ValueError(
            f'"chosen" and "rejected" part after {num_shared} messages, and {len(rests[0])} and '
            f"{len(rests[1])} follow; a pair must share all but the assistant's last message: cut "
            "both behind the first message in which they differ, or remove the row"
        )
    turns = _joined(prompt_turns(values, form), chosen[:num_shared])
    return exchange_of(turns), (rests[0][0].text, rests[1][0].text)


def _joined(prompt: Turns, shared: Turns) -> Turns:
    """Join a prompt and the beginning of the answers, which may repeat the prompt."""
    if shared[max(len(shared) - len(prompt), 0) :] == prompt:
        return shared
    lengths = range(min(len(prompt), len(shared)), -1, -1)
    overlap = next(n for n in lengths if prompt[len(prompt) - n :] == shared[:n])
    if not overlap and prompt and shared and prompt[-1].role == shared[0].role == "user":
        raise ValueError(
            'the answers begin with a message that is not the prompt; remove "prompt", or what '
            "comes before the last message of the answers"
        )
    return prompt + shared[overlap:]


def _ranking(values: Values) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the responses best first, and their ranks from 0 without gaps."""
    responses = []
    for given in values["responses"]:
        [*rest, turn] = answer_turns({"responses": given}, "responses")
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
