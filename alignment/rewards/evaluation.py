"""How well an ensemble of reward models predicts answers that it has not learned from."""

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from alignment.bootstrap import _mean, with_interval
from alignment.data.tokenized import TokenizedComparisons
from alignment.preferences.record import PreferenceLikelihood
from alignment.preferences.reward_model_loss import (
    answers_on_rows,
    log_likelihoods,
    rows_in_order,
)

FIGURES = "reward_model.json"
"""In the run directory: how the members do on held-out comparisons."""


FEATURES = "features.safetensors"
"""In the run directory, if it was kept: what the head of member 0 gets to see."""


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


class MemberLogits(NamedTuple):
    """What one member says of the held-out responses."""

    scores: list[float]
    """[response]"""
    log_scales: list[float] | None
    """[response] of its noise, where the likelihood has it."""
    log_tie: float
    """Its share of ties, as alignment.preferences.reward_model_loss.learned_likelihood takes it."""

    @property
    def outputs(self) -> NDArray[np.float32]:
        """[response, output]: score, and log-scale where there is one."""
        columns = [self.scores] if self.log_scales is None else [self.scores, self.log_scales]
        return np.asarray(columns, np.float32).T


def held_out_figures(
    held_out: HeldOut,
    verdicts: Sequence[MemberLogits],
    likelihoods: Sequence[PreferenceLikelihood],
) -> dict[str, Any]:
    """Measure an ensemble; its score is the mean of its members', its chance of an answer too.

    Args:
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


def _comparisons(held_out: HeldOut, verdicts: Sequence[MemberLogits]) -> list[dict[str, Any]]:
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


def preferred_length(
    response_tokens: Sequence[int], ranks: NDArray[np.float32], row_sizes: Sequence[int]
) -> Literal["longer", "shorter"]:
    """Learn from comparisons which of two responses is mostly preferred; each row counts the same.

    Args:
        response_tokens: [response] length.
        ranks: [response] of row after row, 0 for the best, equal for a tie.

    Returns:
        "longer" also where both are preferred equally often.
    """
    in_order = rows_in_order(np.asarray(response_tokens, np.float32), ranks, row_sizes)
    known = in_order[np.isfinite(in_order)]
    return "longer" if not len(known) or known.mean() >= 0.5 else "shorter"


def length_baseline(prefers: Literal["longer", "shorter"], held_out: HeldOut) -> dict[str, Any]:
    """Measure how often length alone is right, an equal length half right, as a model is measured.

    Args:
        prefers: as preferred_length has learned it from training rows.

    Returns:
        prefers, and mean, low, high and num_rows of its accuracy.
    """
    sign = 1.0 if prefers == "longer" else -1.0
    scores = sign * np.asarray(held_out.response_tokens, np.float32)
    in_order = rows_in_order(scores, held_out.ranks, held_out.sizes)
    return {"prefers": prefers, **with_interval(in_order)}


def held_out_of(data: TokenizedComparisons) -> HeldOut:
    """Return what was said of the held-out rows."""
    rows = data.held_out_rows
    trajectories, ranks = data.select(rows)
    return HeldOut(
        rows=rows.tolist(),
        sizes=np.diff(data.first)[rows].tolist(),
        strengths=[data.rows[row].strength or 0.0 for row in rows],
        domains=[data.rows[row].domain for row in rows],
        ranks=ranks,
        response_tokens=trajectories.response_lengths.tolist(),
    )
