from typing import get_args

import pytest

from actors.config import choices
from alignment.divergences.full_vocabulary import STATE_DIVERGENCES
from alignment.divergences.lookup import DIVERGENCES, divergence

PARAMETERS = {
    "alpha": {"alpha": 0.5},
    "generalized_js": {"beta": 0.5},
    "skew_forward_kl": {"skew": 0.1},
    "skew_reverse_kl": {"skew": 0.1},
}


def test_the_names_that_a_job_may_give_are_those_there_are():
    """They are written twice, because checking a job must not import torch."""
    assert set(get_args(choices.DivergenceName)) == set(DIVERGENCES)
    assert set(choices.STATE_DIVERGENCES) == set(STATE_DIVERGENCES)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_those_without_a_generator_are_known_without_loading_them(name):
    record = divergence(name, **PARAMETERS.get(name, {}))
    assert (record.generator is None) == (name in choices.UNBOUND_DIVERGENCES)
