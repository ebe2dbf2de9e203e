from inspect import signature
from typing import get_args

import pytest
from pydantic import ValidationError

from actors.config import choices
from actors.config.objective import ObjectiveConfig, SftConfig
from actors.config.preferences import TAKEN_BY, PreferenceParameters, PreferencesConfig
from actors.config.scorers import DiscriminatorConfig
from alignment.divergences.full_vocabulary import STATE_DIVERGENCES
from alignment.divergences.lookup import DIVERGENCES, divergence
from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS


def test_the_names_that_a_job_may_give_are_those_there_are():
    """They are written twice, because checking a job must not import torch."""
    assert set(get_args(choices.DivergenceName)) == set(DIVERGENCES)
    assert set(choices.STATE_DIVERGENCES) == set(STATE_DIVERGENCES)


def test_the_parameters_that_a_job_may_give_are_those_that_the_functions_take():
    for name, make in DIVERGENCES.items():
        needed = choices.PARAMETER_OF.get(name)
        assert list(signature(make).parameters) == ([needed] if needed else [])
    for name, make in PREFERENCE_LIKELIHOODS.items():
        assert tuple(signature(make).parameters) == TAKEN_BY.get(name, ())
    fields = set(PreferenceParameters.model_fields)
    assert {name for names in TAKEN_BY.values() for name in names} <= fields


@pytest.mark.parametrize("section", [SftConfig, ObjectiveConfig, DiscriminatorConfig])
@pytest.mark.parametrize("rate", [0.0, -1e-5, 0.11, 1e30, float("inf"), float("nan")])
def test_a_learning_rate_that_would_only_destroy_a_model_is_refused(section, rate):
    with pytest.raises(ValidationError, match=r"is not between 0 and 0\.1|be a finite"):
        section(learning_rate=rate)
    assert section(learning_rate=0.1).learning_rate == 0.1


@pytest.mark.parametrize("section", ["objective", "preferences"])
@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_bounds_in_a_job_are_those_of_the_divergence(name, section):
    needed = choices.PARAMETER_OF.get(name)
    for value in (-0.5, 0.0, 0.5, 1.0, 1.5) if needed else ():
        is_allowed = True
        try:
            divergence(name, **{needed: value})
        except ValueError:
            is_allowed = False
        given = {"divergence": name, "divergence_parameters": {needed: value}}
        make = {"objective": ObjectiveConfig, "preferences": PreferencesConfig}[section]
        if is_allowed:
            assert make.model_validate(given).divergence_parameters.given() == {needed: value}
        else:
            with pytest.raises(ValidationError, match="than"):
                make.model_validate(given)


@pytest.mark.parametrize("name", list(DIVERGENCES))
def test_those_without_a_generator_are_known_without_loading_them(name):
    needed = [choices.PARAMETER_OF[name]] if name in choices.PARAMETER_OF else []
    record = divergence(name, **dict.fromkeys(needed, 0.5))
    assert (record.generator is None) == (name in choices.UNBOUND_DIVERGENCES)
