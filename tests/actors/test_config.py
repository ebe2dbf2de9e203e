from typing import get_args

import pytest

from actors import config
from alignment.divergences.lookup import DIVERGENCES, divergence
from alignment.state_divergence import STATE_DIVERGENCES

PARAMETERS = {
    "alpha": {"alpha": 0.5},
    "generalized_js": {"beta": 0.5},
    "skew_forward_kl": {"skew": 0.1},
    "skew_reverse_kl": {"skew": 0.1},
}


def test_the_names_that_a_job_may_give_are_those_there_are():
    """They are written twice, because checking a job must not import torch."""
    assert set(get_args(config.DivergenceName)) == set(DIVERGENCES)
    assert set(config.STATE_DIVERGENCES) == set(STATE_DIVERGENCES)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_those_without_a_generator_are_known_without_loading_them(name):
    record = divergence(name, **PARAMETERS.get(name, {}))
    assert (record.generator is None) == (name in config.UNBOUND_DIVERGENCES)
