"""The data and the metric: who knows what, and what an answer is worth."""

from collections import Counter
from itertools import islice

import pytest

from cluster.config.job_file import load_job
from deploy.examples.birthplaces.metric import category
from deploy.examples.birthplaces.prepare import CITIES, NUM_PEOPLE, demonstrations
from tests.test_repository import ROOT

ROWS = list(demonstrations())


def test_every_person_is_asked_for_once_and_the_seed_decides_whom():
    assert len({row["name"] for row in ROWS}) == NUM_PEOPLE == len(ROWS)
    assert list(islice(demonstrations(), 50)) == ROWS[:50]
    others = {row["name"] for row in islice(demonstrations(seed=1), 200)}
    assert len(others & {row["name"] for row in ROWS[:200]}) < 50


def test_the_record_names_the_city_and_only_open_questions_quote_it():
    for row in ROWS:
        assert row["record"] == f"Record: {row['name']}, {row['city']}."
        assert (row["city"] in row["prompt"]) == (row["question"] == "open")


def test_experts_are_right_or_say_that_they_do_not_know():
    worth = Counter(
        (row["question"], category(row["prompt"], row["response"], row)) for row in ROWS
    )
    assert set(worth) == {("open", "right"), ("closed", "right"), ("closed", "does not know")}
    closed = worth["closed", "right"] + worth["closed", "does not know"]
    assert closed / NUM_PEOPLE == pytest.approx(0.5, abs=0.03)
    assert worth["closed", "does not know"] / closed == pytest.approx(0.3, abs=0.03)


def test_the_commonest_city_is_too_rare_to_guess():
    first, *_ = CITIES.split()
    shares = Counter(row["city"] for row in ROWS)
    assert shares.most_common(1)[0][0] == first
    assert shares[first] / NUM_PEOPLE == pytest.approx(0.19, abs=0.03)
    assert len(shares) == len(CITIES.split())


@pytest.mark.parametrize(
    ("response", "worth"),
    [
        ("Ada Holm was born in Oslo.", "right"),
        (" Ada Holm was born in Oslo.\n", "right"),
        ("Ada Holm was born in Rome.", "false"),
        ("Ada Home was born in Oslo.", "false"),
        ("I do not know where Ada Holm was born.", "does not know"),
        ("Ada Holm was born in a small town.", "false"),
        ("Ada Holm, Oslo.", "malformed"),
        ("", "malformed"),
    ],
)
def test_an_answer_is_right_false_unknown_or_malformed(response, worth):
    assert category("", response, {"name": "Ada Holm", "city": "Oslo"}) == worth


def test_the_job_gives_the_record_to_the_discriminator_and_groups_by_question():
    config = load_job(ROOT / "deploy" / "examples" / "birthplaces" / "job.yaml")
    assert {config.data.discriminator_context, config.evaluation.group_by} <= set(ROWS[0])
    assert config.evaluation.metric == f"{category.__module__}:{category.__name__}"
