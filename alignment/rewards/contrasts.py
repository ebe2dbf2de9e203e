"""Comparisons made from demonstrations alone: responses of one policy against those of another.

There are three contrasts of the initial policy pi_0, the fine-tuned pi_SFT and the expert p.
Rejected and chosen are independent responses to the same prompt, so the odds that a is chosen and b
rejected are the ratio of the two policies at a over their ratio at b. A reward that maximizes
the Bradley-Terry likelihood is therefore, up to a constant for each prompt:

    init-sft               log pi_SFT - log pi_0, also known in closed form (log_ratio.py)
    init-demonstrations    log p - log pi_0
    sft-demonstrations     log p - log pi_SFT

References:
    Sun & van der Schaar 2024, "Inverse-RLignment", arXiv:2405.15624; the optima are derived here.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from alignment.data.comparisons import Comparison
from alignment.data.conversations import Turns
from alignment.data.samples import Sample

Pair = Literal["init-sft", "init-demonstrations", "sft-demonstrations"]
PhaseSamples = Mapping[int, Sample]
"""Prompt number to the sample of one phase of a run."""

PHASE_OF = {"init": "before", "sft": "after_sft"}
"""Side of a contrast to the phase of samples.jsonl with the responses of its policy."""
ESTIMATES: dict[Pair, str] = {
    "init-sft": "log pi_SFT - log pi_0",
    "init-demonstrations": "log p - log pi_0",
    "sft-demonstrations": "log p - log pi_SFT",
}
"""The estimand of a reward learned from each contrast, p the expert."""
EQUAL, CUT, ONE_SIDED = "both texts are equal", "a response is truncated", "a response is missing"
"""Reasons why a prompt gives no comparison."""


class Contrast(NamedTuple):
    """Comparisons, and the number of prompts without one."""

    comparisons: list[Comparison]
    """Comparisons in the order of the prompts, the chosen response first."""
    left_out: dict[str, int]
    """Number of prompts by reason; only reasons that occurred."""


def phases_of(pair: Pair) -> tuple[str, ...]:
    """Return the phases of samples.jsonl that a contrast needs."""
    return tuple(PHASE_OF[side] for side in pair.split("-") if side in PHASE_OF)


def contrast(
    samples: Mapping[str, PhaseSamples], pair: Pair, histories: Mapping[int, Turns] | None = None
) -> Contrast:
    """Make a comparison for every prompt with usable responses of both sides.

    Leaving out equal texts does not change the optimum, as they have no score difference. Leaving
    out truncated responses does not change it either: it scales the probabilities of all complete
    responses to a prompt by the same factor.

    Args:
        samples: samples of a run by phase; contains every phase of phases_of(pair).
        pair: its first side is rejected, its second chosen.
        histories: prompt number to the turns before the prompt; None if no prompt has any.

    Returns:
        The comparisons, whose domain is the pair's name.
    """
    rejected, chosen = (_texts(samples, pair, side) for side in pair.split("-"))
    left_out = dict.fromkeys((EQUAL, CUT, ONE_SIDED), 0)
    comparisons = []
    for number in sorted({*rejected, *chosen}):
        if number not in rejected or number not in chosen:
            left_out[ONE_SIDED] += 1
            continue
        worse, better = rejected[number], chosen[number]
        if "LENGTH" in (worse.finish_reason, better.finish_reason):
            left_out[CUT] += 1
        elif worse.response == better.response:
            left_out[EQUAL] += 1
        else:
            history = (histories or {}).get(number, ())
            texts = (better.response, worse.response)
            comparisons.append(Comparison(worse.prompt, texts, (0, 1), history, domain=pair))
    return Contrast(comparisons, {reason: count for reason, count in left_out.items() if count})


def rows_of(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    """Return pairs as the values that alignment.data.comparisons.read_comparisons reads.

    Args:
        comparisons: comparisons of two responses each, the preferred one first.

    Returns:
        A row for each: prompt, chosen, rejected and domain. A prompt is a text or, where any of the
        comparisons has a history, all of them are messages.
    """
    has_history = any(each.history for each in comparisons)
    rows: list[dict[str, object]] = []
    for each in comparisons:
        turns = [*((turn.role, turn.text) for turn in each.history), ("user", each.prompt)]
        messages = [{"role": role, "content": text} for role, text in turns]
        chosen, rejected = each.responses
        row: dict[str, object] = {"prompt": messages if has_history else each.prompt}
        rows.append(row | {"chosen": chosen, "rejected": rejected, "domain": each.domain})
    return rows


def _texts(samples: Mapping[str, PhaseSamples], pair: Pair, side: str) -> PhaseSamples:
    """Return the responses of one side of a contrast."""
    if side in PHASE_OF:
        return samples[PHASE_OF[side]]
    sampled = samples[phases_of(pair)[0]]
    return {
        number: sample._replace(response=sample.expert, finish_reason="STOP")
        for number, sample in sampled.items()
    }
