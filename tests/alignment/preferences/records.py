"""Every preference likelihood, with the values of its parameters at which it is tested."""

import itertools

import pytest
import torch

from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS, preference_likelihood
from alignment.preferences.record import Comparisons

PARAMETERS = {
    "margin": [{"margin_per_strength": value} for value in (0.0, 0.5)],
    "thurstone": [{"scale": value} for value in (0.5**0.5, 2.0)],
    "rao_kupper": [{"threshold": value} for value in (1.0, 1.6)],
    "davidson": [{"tie_weight": value} for value in (0.0, 0.8)],
}
RECORDS = [
    preference_likelihood(name, **parameters)
    for name in PREFERENCE_LIKELIHOODS
    for parameters in PARAMETERS.get(name, [{}])
]
IDS = [
    "-".join([name, *(f"{value:.3g}" for value in parameters.values())])
    for name in PREFERENCE_LIKELIHOODS
    for parameters in PARAMETERS.get(name, [{}])
]
TIED = [record for record in RECORDS if "ties" in record.takes]
every_record = pytest.mark.parametrize("record", RECORDS, ids=IDS)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def compared(record, scores, *, is_tie=None, strength=0.0, log_scales=None):
    """Rows of scores with all that the likelihood may ask for."""
    rows = len(scores)
    if is_tie is None and "ties" in record.takes:
        is_tie = torch.zeros(rows, dtype=torch.bool)
    return Comparisons(
        scores,
        is_tie=is_tie,
        strengths=torch.full_like(scores[:, 0], strength),
        log_scales=torch.zeros_like(scores) if log_scales is None else log_scales,
    )


def answer_chances(record, scores, log_scales=None):
    """Chance of each order of one set of responses, and of a tie where there may be one."""
    orders = torch.tensor(list(itertools.permutations(range(len(scores)))))
    scales = (torch.zeros_like(scores) if log_scales is None else log_scales)[orders]
    chances = record.log_likelihood(compared(record, scores[orders], log_scales=scales)).exp()
    if "ties" not in record.takes:
        return chances
    tied = torch.ones(len(orders), dtype=torch.bool)
    ties = record.log_likelihood(compared(record, scores[orders], is_tie=tied)).exp()
    torch.testing.assert_close(ties[0], ties[1])  # a tie's two may stand in either order
    return torch.cat([chances, ties[:1]])
