"""The demo's data: what its preparation makes of the two Bibles, and what its pattern counts."""

import importlib.util
import re
from pathlib import Path

import pytest

from cluster.config.job_file import load_job

FOLDER = Path(__file__).parents[2] / "deploy" / "examples" / "king_james"


@pytest.fixture(scope="module")
def preparation():
    spec = importlib.util.spec_from_file_location("prepared", FOLDER / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("And God saw the light, that [it was] good:", "And God saw the light, that it was good:"),
        ('He said, "Don`t, and `you` won`t."', "He said, Don't, and you won't."),
        ("the sons` wives", "the sons' wives"),
        ("He said, `It is the sons` wives.`", "He said, It is the sons wives."),
        ("his wife\u2019s  name\n \u201cEve\u201d", "his wife's name Eve"),
        ("my hurt.      Psalm 72       By Solomon.", "my hurt."),
        ("Don`t forsake me.      BEIT ", "Don't forsake me."),
        ("for me.   SIN AND SHIN", "for me."),
        ("He named him JESUS.", "He named him JESUS."),
    ],
)
def test_editors_marks_go_and_words_stay(preparation, raw, cleaned):
    assert preparation.cleaned(raw) == cleaned


def test_a_row_is_short_differs_and_has_a_prompt_of_its_own(preparation):
    long, short = "word " * 17, "one two three"
    verses = [
        ("He gives to all.", "He giveth to all."),
        ("He gives to all.", "He giveth unto all."),  # the prompt is there already
        ("Pray without ceasing, all.", "Pray without ceasing, all."),
        (long, "He giveth to all."),
        ("Give to all men.", short),
        ("word " * 16, "Give to all men."),
    ]
    rows = list(preparation.demonstrations(verses))
    assert rows == [
        {"prompt": "He gives to all.", "response": "He giveth to all."},
        {"prompt": ("word " * 16).strip(), "response": "Give to all men."},
    ]


def archaic():
    pattern = load_job(FOLDER / "job.yaml").evaluation.patterns["archaic"]
    return re.compile(pattern, re.IGNORECASE)  # as the report reads it


@pytest.mark.parametrize(
    "text",
    [
        "Thou art here.",
        "Ye go.",
        "He HATH it.",
        "he knoweth",
        "and spake",
        "gave unto him",
        "hateth",
    ],
)
def test_archaic_forms_are_counted(text):
    assert archaic().search(text)


@pytest.mark.parametrize(
    "text",
    [
        "The best rest in the west forest, at length, is the greatest.",
        "Seth of Nazareth, Elizabeth and Japheth, with the twentieth teeth.",
        "You have, do, say and shall; yes, years and eyes, beneath the earth.",
    ],
)
def test_modern_words_are_not_counted(text):
    assert not archaic().search(text)
