"""How well an ensemble of reward models predicts answers that it has not learned from."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from alignment.preferences.record import PreferenceLikelihood
from alignment.reward_model import answers_on_rows, log_likelihoods, rows_in_order

RESAMPLES = 2000
"""Of the bootstrap: enough for two digits of an interval's ends."""
SEED = 0
"""Of the bootstrap."""


class HeldOut(NamedTuple):
    """Rows of comparisons, the responses of one beside one another, best first."""

    rows: list[int]
    """[row] its number in the data."""
    sizes: list[int]
    """[row] responses in each."""
    strengths: list[float]
    """[row] 0 where the data give none."""
    domains: list[str | None]
    """[row]"""
    ranks: NDArray[np.float32]
    """[response] 0 for the best, equal for a tie."""
    response_tokens: list[int]
    """[response] length, the end token included."""


class MemberVerdict(NamedTuple):
    """What one member says of the held-out responses."""

    scores: list[float]
    """[response]"""
    log_scales: list[float] | None
    """[response] of its noise, where the likelihood has it."""
    log_tie: float
    """Its share of ties, as alignment.reward_model.learned_likelihood takes it."""

    @property
    def outputs(self) -> NDArray[np.float32]:
        """[response, output]: score, and log-scale where there is one."""
        columns = [self.scores] if self.log_scales is None else [self.scores, self.log_scales]
        return np.asarray(columns, np.float32).T


def held_out_figures(
    held_out: HeldOut,
    verdicts: Sequence[MemberVerdict],
    likelihoods: Sequence[PreferenceLikelihood],
) -> dict[str, Any]:
    """Measure an ensemble; its score is the mean of its members', its chance of an answer too.

    Args:
        held_out: what annotators said.
        verdicts: [member]
        likelihoods: [member] each with its own share of ties.

    Returns:
        Figures fit for JSON. accuracy: share of pairs in the right order, an equal score half
        right, a mean over rows. log_likelihood: of an answer, in nats, a mean over rows (of a row
        in pairs, over these). Each as mean, low and high, the ends of a 95 % interval by bootstrap
        over rows, and num_rows, those that have one. members: the same two of each member, without
        interval, and log_tie. comparisons: of each row its number, domain, ranks, response_tokens
        and scores [member][response], and log_scales if there are any.
    """
    answers = answers_on_rows(held_out.ranks, held_out.sizes, held_out.strengths)
    found = [
        log_likelihoods(torch.from_numpy(verdict.outputs).double(), answers, likelihood)
        for verdict, likelihood in zip(verdicts, likelihoods, strict=True)
    ]
    chances = torch.stack([each.values for each in found]).logsumexp(0) - math.log(len(found))
    together = found[0]._replace(values=chances)
    scores = [verdict.outputs[:, 0] for verdict in verdicts]
    in_order = [
        rows_in_order(each, held_out.ranks, held_out.sizes)
        for each in (np.mean(scores, axis=0), *scores)
    ]
    return {
        "accuracy": with_interval(in_order[0]),
        "log_likelihood": with_interval(together.row_means().detach().numpy()),
        "members": [
            {
                "accuracy": _mean(of_member),
                "log_likelihood": _mean(each.row_means().detach().numpy()),
                "log_tie": verdict.log_tie,
            }
            for of_member, each, verdict in zip(in_order[1:], found, verdicts, strict=True)
        ],
        "comparisons": _comparisons(held_out, verdicts),
    }


def with_interval(values: NDArray[np.float64]) -> dict[str, float | int | None]:
    """Average over rows, with a 95 % interval by bootstrap over them.

    Args:
        values: [row], nan where a row has none.

    Returns:
        mean, low and high, None where no row has a value, and num_rows, those that have one.
    """
    known = values[np.isfinite(values)]
    if not len(known):
        return {"mean": None, "low": None, "high": None, "num_rows": 0}
    rng = np.random.default_rng(SEED)
    means = [rng.choice(known, len(known)).mean() for _ in range(RESAMPLES)]
    low, high = np.quantile(means, [0.025, 0.975]).tolist()
    return {"mean": _mean(known), "low": low, "high": high, "num_rows": len(known)}


def _mean(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else None


def _comparisons(held_out: HeldOut, verdicts: Sequence[MemberVerdict]) -> list[dict[str, Any]]:
    """Put together what is known of each row."""
    listed = []
    end = 0
    for row, size, domain in zip(held_out.rows, held_out.sizes, held_out.domains, strict=True):
        own = slice(end, end + size)
        end += size
        figures: dict[str, Any] = {
            "row": row,
            "domain": domain,
            "ranks": held_out.ranks[own].tolist(),
            "response_tokens": held_out.response_tokens[own],
            "scores": [verdict.scores[own] for verdict in verdicts],
        }
        scales = [verdict.log_scales[own] for verdict in verdicts if verdict.log_scales]
        listed.append(figures | ({"log_scales": scales} if scales else {}))
    return listed
