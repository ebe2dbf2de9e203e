import math

import pytest

from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS, preference_likelihood
from tests.alignment.preferences.records import PARAMETERS, RECORDS, every_record


def test_every_likelihood_has_its_own_name():
    assert {record.name for record in RECORDS} == set(PREFERENCE_LIKELIHOODS)


@every_record
def test_a_record_says_what_it_takes_and_when_to_choose_it(record):
    assert "pairs" in record.takes
    assert all((record.formula, record.behavior, record.choose_when, record.avoid_when))
    accepted = PARAMETERS.get(record.name, [{}])[0]
    assert all(parameter in record.parameters for parameter in accepted)
    assert bool(record.parameters) == bool(accepted)


def test_unknown_name_is_an_error_that_names_the_nearest_and_all():
    with pytest.raises(
        ValueError,
        match=r"unknown preference likelihood 'bradley-terry'; did you mean bradley_terry\? "
        r"choose one of bradley_terry, margin, .*classification",
    ):
        preference_likelihood("bradley-terry")
    with pytest.raises(ValueError, match=r"'xyz'; choose one of bradley_terry"):
        preference_likelihood("xyz")


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("bradley_terry", {"scale": 1.0}, r"bradley_terry has no parameter \['scale'\].*none"),
        ("thurstone", {"theta": 1.0}, r"thurstone has no parameter \['theta'\].*: scale"),
        ("thurstone", {}, "thurstone needs the parameter scale"),
        ("thurstone", {"scale": 0.0}, r"scale must be positive and finite; it is 0.0"),
        ("thurstone", {"scale": math.inf}, "scale must be positive and finite; it is inf"),
        ("margin", {"margin_per_strength": -0.1}, "must be finite and at least 0; it is -0.1"),
        ("margin", {"margin_per_strength": math.nan}, "at least 0; it is nan"),
        ("rao_kupper", {"threshold": 0.99}, "threshold must be finite and at least 1.*is 0.99"),
        ("davidson", {"tie_weight": -0.1}, "tie_weight must be finite and at least 0.*is -0.1"),
        ("davidson", {"tie_weight": math.inf}, "tie_weight must be finite"),
    ],
)
def test_wrong_parameters_are_errors(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        preference_likelihood(name, **parameters)
