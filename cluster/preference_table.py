"""What irlign preferences shows, and the table of the README's section on preferences."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from textwrap import fill
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from actors.preferences_config import (
    DEFAULTS,
    FOR_REWARD_MODELS,
    OF_OBJECTIVE,
    SMOOTHED,
    DirectName,
)
from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS, preference_likelihood
from alignment.preferences.record import PreferenceLikelihood


class DirectObjective(NamedTuple):
    """An objective of the policy that is no likelihood, in the words of one that is."""

    name: DirectName
    formula: str
    """The loss of one answer, with l, z and beta as LEGEND has them."""
    behavior: str
    choose_when: str
    avoid_when: str
    takes: tuple[str, ...]
    parameters: str
    caveat: str


DIRECT = (
    DirectObjective(
        name="identity",
        formula="(l_i - l_j - 1 / (2 beta))^2; a tie (l_i - l_j)^2",
        behavior="moves every difference of log-ratios towards one target, and no further",
        choose_when="all annotators agree, where DPO has no minimum, or no scores explain them",
        avoid_when="it matters how much better a response is: only chances to win are raised",
        takes=("pairs", "ties"),
        parameters="",
        caveat=(
            "log-ratios are sums over tokens, as in the paper; libraries that divide them by the "
            "response's length mean another beta"
        ),
    ),
    DirectObjective(
        name="kahneman_tversky",
        formula=(
            "desirable_weight sigmoid(beta (z - l)) if desirable, "
            "else undesirable_weight sigmoid(beta (l - z))"
        ),
        behavior="moves each response to its side of z; far from it, on either side, hardly at all",
        choose_when="responses were judged one by one, or many verdicts are wrong",
        avoid_when="answers are clean pairs: that both stand under one prompt is not used",
        takes=("verdicts", "pairs"),
        parameters="both weights: at least 0, such that weight times number is about the same",
        caveat="of a pair or ranking the best response is desirable, and all others undesirable",
    ),
    DirectObjective(
        name="self_play",
        formula="log(1 + e^(beta (l_j - l_i))), i the demonstration, j the policy's response",
        behavior="a whole round moves log policy by 1 / beta times its distance from log expert",
        choose_when="there are demonstrations only, and nothing shall be trained but the policy",
        avoid_when="beta is below 1/2 and rounds are run to their end: the policy then overshoots",
        takes=("demonstrations",),
        parameters="",
        caveat="the reference is the policy of an epoch ago, so an epoch is a round",
    ),
)
"""What preferences.objective can be beside the likelihoods of alignment.preferences."""
KNOWN_AS = {
    "bradley_terry": "DPO",
    "rao_kupper": "DPO-RK",
    "davidson": "DPO-D",
    "identity": "IPO",
    "kahneman_tversky": "KTO",
    "self_play": "SPIN",
}
"""Names that these objectives have elsewhere, when it is a policy that learns by them."""
LINE_WIDTH = 100
"""Of the README."""
NAMES = (*PREFERENCE_LIKELIHOODS, *(objective.name for objective in DIRECT))
LEGEND = (
    "Response i was preferred to j. d = r_i - r_j, where r is a reward model's score, the "
    "discriminator's logit, or the reward that the policy implies: beta l if "
    "`preferences.divergence` is `reverse_kl`, with l = log(policy / reference). z is the mean l "
    "of responses under other prompts than theirs, or 0 if that is less. A ranking is taken whole "
    "by `plackett_luce`, as verdicts by `kahneman_tversky`, and pair by pair by the others. "
    "`parameters.label_smoothing` makes DPO conservative DPO."
)


def show(console: Console, name: str | None) -> None:
    """Print all objectives of preferences, or all that is known of one.

    Args:
        console: where to.
        name: one of NAMES; None prints the list.

    Raises:
        ValueError: if there is no such objective.
    """
    console.print(_overview() if name is None else _details(_record(name)))
    console.print(LEGEND, highlight=False)
    if name is None:
        console.print("All of one: irlign preferences NAME", highlight=False)


def markdown() -> str:
    """Return the README's table of what preferences.objective can be, and the legend under it."""
    columns = ("`preferences.objective`", "known as", "chance of the answer, or loss")
    rows = [(*columns, "answers", "for"), ("---",) * 5]
    for record in map(_record, NAMES):
        name, formula = f"`{record.name}`", f"`{record.formula}`"
        rows.append((name, KNOWN_AS.get(record.name, ""), formula, *_uses(record)))
    return "\n".join(_line(row) for row in rows) + f"\n\n{fill(LEGEND, LINE_WIDTH)}"


def _record(name: str) -> PreferenceLikelihood | DirectObjective:
    """Look up an objective; the values of its parameters do not change what is said of it."""
    for objective in DIRECT:
        if objective.name == name:
            return objective
    if name in PREFERENCE_LIKELIHOODS:
        return preference_likelihood(name, **OF_OBJECTIVE.get(name, {}))
    meant = {known.lower(): each for each, known in KNOWN_AS.items()} | {
        each: each for each in NAMES
    }
    close = get_close_matches(name.lower(), meant, n=1)
    hint = f"did you mean {meant[close[0]]}? " if close else ""
    raise ValueError(
        f"unknown objective of preferences {name!r}; {hint}choose one of {', '.join(NAMES)}"
    )


def _uses(record: PreferenceLikelihood | DirectObjective) -> tuple[str, str]:
    """Return which answers an objective takes, and what can be trained by it."""
    name = record.name
    is_likelihood, is_of_rewards = name in PREFERENCE_LIKELIHOODS, name not in FOR_REWARD_MODELS
    learners = {
        "policy": is_of_rewards,
        "discriminator": is_likelihood and is_of_rewards,
        "reward model": is_likelihood,
    }
    return ", ".join(record.takes), ", ".join(who for who, can in learners.items() if can)


def _overview() -> Table:
    table = Table("name", "known as", "answers", "for", "behavior")
    for record in map(_record, NAMES):
        cells = (record.name, KNOWN_AS.get(record.name, ""), *_uses(record), record.behavior)
        table.add_row(*cells, end_section=True)
    return table


def _details(record: PreferenceLikelihood | DirectObjective) -> Table:
    name, is_likelihood = record.name, isinstance(record, PreferenceLikelihood)
    answers, learners = _uses(record)
    is_learned = is_likelihood and "ties" in record.takes
    rows = {
        "known as": KNOWN_AS.get(name),
        "chance of the answer" if is_likelihood else "loss of the answer": record.formula,
        "answers": answers,
        "for": learners,
        "needs": FOR_REWARD_MODELS.get(name),
        "parameters": record.parameters or "none of its own",
        "by default": _settings(OF_OBJECTIVE.get(name, {})),
        "reward models": "learn the share of ties" if is_learned else None,
        "and in stage 2": _settings(_shared(name)),
        "behavior": record.behavior,
        "choose it when": record.choose_when,
        "avoid it when": record.avoid_when,
        "caveat": record.caveat,
    }
    table = Table(show_header=False, title=name, title_justify="left", box=None)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, text in rows.items():
        if text:
            table.add_row(label, escape(text))
    return table


def _shared(name: str) -> Mapping[str, float]:
    """Return the parameters of stage 2, with any objective that it can learn by."""
    if name in FOR_REWARD_MODELS:
        return {}
    return {key: DEFAULTS[key] for key in DEFAULTS if key != "label_smoothing" or name in SMOOTHED}


def _settings(values: Mapping[str, float]) -> str:
    return ", ".join(f"{parameter} = {value:g}" for parameter, value in values.items())


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
