from typing import get_args

import pytest

from actors.config import choices
from alignment.divergences.lookup import DIVERGENCES, LABELLED, divergence
from tests.alignment.divergences.records import PARAMETERS, RECORDS, over


def test_every_divergence_of_the_configuration_exists_under_its_own_name():
    assert get_args(choices.DivergenceName) == tuple(DIVERGENCES)
    assert {record.name for record in RECORDS} == set(DIVERGENCES)


@over(RECORDS)
def test_what_is_labelled_or_extreme_warns_and_names_something_to_take_instead(record):
    extreme = {"pearson_chi2", "neyman_chi2", "total_variation"}
    if record.name in LABELLED or record.name in extreme:
        assert "use " in record.caveat
        others = set(DIVERGENCES) - set(LABELLED) - extreme
        assert any(other in record.caveat.partition("use ")[2] for other in others)
    elif record.name != "alpha":
        assert record.caveat is None
    assert bool(record.parameters) == (record.name in PARAMETERS)


@pytest.mark.parametrize(
    ("alpha", "warns"), [(-0.01, True), (0.0, False), (1.0, False), (2.0, True)]
)
def test_alpha_warns_outside_the_two_kls(alpha, warns):
    assert bool(divergence("alpha", alpha=alpha).caveat) == warns


def test_unknown_name_is_an_error_that_names_the_choices():
    with pytest.raises(
        ValueError,
        match=r"unknown divergence 'reverse-kl'; did you mean reverse_kl\? choose one of "
        r"forward_kl, reverse_kl, jensen_shannon.*or name a convex function of your own",
    ):
        divergence("reverse-kl")
    with pytest.raises(ValueError, match=r"unknown divergence 'xyz'; choose one of forward_kl"):
        divergence("xyz")


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("forward_kl", {"alpha": 0.5}, r"forward_kl has no parameter \['alpha'\].*none"),
        ("alpha", {"beta": 0.5}, r"alpha has no parameter \['beta'\]; it accepts: alpha"),
        ("alpha", {}, r"alpha needs the parameter alpha; .* such as \{alpha: 0.5\}"),
        ("generalized_js", {}, "generalized_js needs the parameter beta"),
        ("alpha", {"alpha": float("nan")}, "alpha must be a finite number; got nan"),
        ("generalized_js", {"beta": 1.1}, r"beta must be in \[0, 1\].*it is 1.1"),
        ("skew_forward_kl", {"skew": 1.0}, r"skew must be in \[0, 1\); it is 1.0"),
        ("skew_reverse_kl", {"skew": -0.1}, r"skew must be in \[0, 1\); it is -0.1"),
        ("some.module:function", {"skew": 0.1}, r"some.module:function has no parameter"),
    ],
)
def test_wrong_parameters_are_errors(name, parameters, message):
    with pytest.raises(ValueError, match=message):
        divergence(name, **parameters)
