import pytest

from actors.errors import InvalidInputError
from actors.response_metric import MAX_CATEGORIES, MetricError, ResponseMetric, summary
from alignment.intervals import wilson_interval

HERE = "tests.actors.test_response_metric"
ROWS = [{"city": "Oslo"}, {"city": "Rome"}]
RESPONSES = [(0, "where?", "in Oslo"), (1, "where?", "in Oslo")]


def names_the_city(prompt, response, row):
    assert prompt == "where?"
    return "right" if row["city"] in response else "false"


def words(_prompt, response, _row):
    return len(response.split())


def fails_on_rome(_prompt, _response, row):
    return {"Oslo": "right"}[row["city"]]


def returns_nothing(_prompt, _response, _row):
    return None


def returns_a_path(_prompt, _response, _row):
    return "a/b"


def returns_both_kinds(_prompt, _response, row):
    return "right" if row["city"] == "Oslo" else 0.5


def exits(_prompt, _response, _row):
    raise SystemExit(3)


def takes_two(_prompt, _response):
    return "right"


def test_a_function_gives_categories_or_numbers():
    assert ResponseMetric(f"{HERE}:names_the_city").values(RESPONSES, ROWS) == ["right", "false"]
    assert ResponseMetric(f"{HERE}:words").values(RESPONSES, ROWS) == [2.0, 2.0]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails_on_rome", r"row 2, response 'in Oslo': raised KeyError: 'Rome'"),
        ("exits", r"row 1, .*raised SystemExit: 3"),
        ("returns_nothing", r"row 1, .*returned None; return a category \(text\) or a number"),
        ("returns_a_path", r"row 1, .*returned the category 'a/b'; the name of"),
        ("returns_both_kinds", r"categories \(text\) for some responses and numbers for others"),
    ],
)
def test_what_is_no_value_is_told_with_its_row(name, message):
    with pytest.raises(MetricError, match=message):
        ResponseMetric(f"{HERE}:{name}").values(RESPONSES, ROWS)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gone", r"evaluation\.metric .*gone' cannot be imported"),
        ("takes_two", r"is called with \(prompt, response, row\), and its parameters do not"),
        ("HERE", r"is a str, which cannot be called; name a function of \(prompt, response, row\)"),
    ],
)
def test_what_is_no_function_of_three_is_refused(name, message):
    with pytest.raises(InvalidInputError, match=message):
        ResponseMetric(f"{HERE}:{name}")


def test_the_shares_of_a_group_add_up_and_have_wilsons_interval():
    values = ["right", "right", "false", "right", "malformed"]
    found = summary(values, ["open", "open", "open", "closed", "closed"])
    assert found["open/num_responses"] == 3
    assert found["open/right"] == pytest.approx(2 / 3)
    assert (found["open/right/low"], found["open/right/high"]) == wilson_interval(2, 3)
    assert found["closed/false"] == found["open/malformed"] == 0.0
    for group in ("open", "closed"):
        shares = [found[f"{group}/{name}"] for name in ("right", "false", "malformed")]
        assert sum(shares) == pytest.approx(1.0)


def test_numbers_have_a_mean_and_a_bootstrap_interval():
    found = summary([0.0, 1.0, 2.0, 3.0], ["all"] * 4)
    assert found["all/value"] == 1.5
    assert 0.0 < found["all/value/low"] < 1.5 < found["all/value/high"] < 3.0


def test_texts_instead_of_categories_are_refused():
    texts = [f"answer {number}" for number in range(MAX_CATEGORIES + 1)]
    with pytest.raises(MetricError, match=r"returned 13 categories, such as 'answer 0' and"):
        summary(texts, ["all"] * len(texts))
