"""Every divergence, with the values of its parameters at which it is tested."""

import pytest
import torch

from alignment.divergences.lookup import DIVERGENCES, divergence

PARAMETERS = {
    "alpha": [{"alpha": value} for value in (-1.5, 0.0, 0.3, 0.5, 1.0, 1.5)],
    "generalized_js": [{"beta": value} for value in (0.0, 1e-7, 0.1, 0.5, 0.9, 1.0)],
    "skew_forward_kl": [{"skew": value} for value in (0.0, 0.01, 0.1, 0.7)],
    "skew_reverse_kl": [{"skew": value} for value in (0.0, 0.1, 0.7)],
}
RECORDS = [
    divergence(name, **parameters)
    for name in DIVERGENCES
    for parameters in PARAMETERS.get(name, [{}])
]
IDS = [
    "-".join([name, *(f"{value:.8g}" for value in parameters.values())])
    for name in DIVERGENCES
    for parameters in PARAMETERS.get(name, [{}])
]
GENUINE = [record for record in RECORDS if record.generator]
"""All that are f-divergences."""
CURVED = [record for record in GENUINE if record.name != "total_variation"]
"""All of these that are smooth."""


def over(records):
    """Run a test for each of the records."""
    names = [name for name, record in zip(IDS, RECORDS, strict=True) if record in records]
    return pytest.mark.parametrize("record", records, ids=names)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def log_grid(low, high, num):
    return torch.linspace(low, high, num, dtype=torch.float64)


def kl(p, q):
    return (p * (p / q).log()).sum()
