"""The two-translation experiment: data, classifier, and comparison of finished runs."""

import importlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from alignment.report.run_files import read_run

FOLDER = Path(__file__).parents[2] / "deploy" / "examples" / "two_translations"


@pytest.fixture(scope="module")
def preparation():
    return importlib.import_module("deploy.examples.two_translations.prepare")


@pytest.fixture(scope="module")
def classifier_code():
    return importlib.import_module("deploy.examples.two_translations.classifier")


@pytest.fixture(scope="module")
def comparison():
    return importlib.import_module("deploy.examples.two_translations.compare")


def test_a_bible_is_split_at_its_verse_numbers_by_the_common_numbering(preparation):
    text = "1. At the first. 2.(And then.) 3.\\2:1\\The second.\\ 1.\\2:2\\Its end.1. A book, and"
    numbers = [1001001, 1001002, 1001003, 1002001, 2001001]
    assert preparation.numbered_verses(text, numbers) == {
        1001001: " At the first. ",
        1001002: "(And then.) ",
        1002001: "The second. ",
        1002002: "Its end.",
        2001001: " A book, and",
    }


def test_numbers_that_differ_from_the_text_are_an_error(preparation):
    with pytest.raises(ValueError, match="verse 1001003 has number 2 in the text"):
        preparation.numbered_verses("1. At the first. 2. And then.", [1001001, 1001003])
    with pytest.raises(ValueError, match="zip"):
        preparation.numbered_verses("1. At the first. 2. And then.", [1001001])


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("He went up.", "he went UP", 1.0),
        ("He went up.", "She came down.", 0.0),
        ("he went up", "he came up there", 4 / 7),
        ("", "", 0.0),
    ],
)
def test_overlap_is_the_share_of_common_words(preparation, first, second, expected):
    assert preparation.overlap(first, second) == pytest.approx(expected)


def test_the_draw_depends_on_the_verse_and_the_purpose_alone(preparation):
    # sha256 of "translation:1001001" begins with these 8 bytes
    assert preparation.uniform(1001001, "translation") == 0xF929A54449DA1901 / 2**64
    assert preparation.uniform(1001001, "test") != preparation.uniform(1001001, "translation")
    draws = np.array([preparation.uniform(number, "translation") for number in range(4000)])
    assert np.mean(draws < preparation.KING_JAMES_SHARE) == pytest.approx(0.6, abs=0.02)


def verse(preparation, number, **changes):
    wordings = {
        "modern": f"He said {number} modern words",
        "king_james": f"Thus spake {number} olden tongue",
        "basic_english": f"These are {number} basic ones",
    }
    return preparation.Verse(number, **(wordings | changes))


def test_a_demonstration_has_one_of_two_wordings_by_weight(preparation):
    verses = [verse(preparation, number) for number in range(4000)]
    rows = list(preparation.demonstrations(verses))
    by_prompt = {each.modern: each for each in verses}
    chosen = [by_prompt[row["prompt"]] for row in rows]
    is_king_james = [
        row["response"] == each.king_james for row, each in zip(rows, chosen, strict=True)
    ]
    is_basic = [
        row["response"] == each.basic_english for row, each in zip(rows, chosen, strict=True)
    ]
    assert all(one != other for one, other in zip(is_king_james, is_basic, strict=True))
    assert np.mean(is_king_james) == pytest.approx(0.6, abs=0.025)
    assert len(rows) / len(verses) == pytest.approx(0.85, abs=0.02)


def test_no_verse_is_in_both_training_and_test(preparation):
    verses = [verse(preparation, number) for number in range(300)]
    verses.append(verse(preparation, 300, modern="word " * 17 + "and more"))  # too long
    prompts = [row["prompt"] for row in preparation.demonstrations(verses)]
    rows = list(preparation.classifier_rows(verses))
    assert {row["modern"] for row in rows}.isdisjoint(prompts)
    assert len(rows) + len(prompts) == len(verses)
    assert [row["use"] for row in rows[:-1]] == ["test"] * (len(rows) - 1)
    assert rows[-1]["use"] == "train"


@pytest.mark.parametrize(
    "changes",
    [
        {"modern": "only three words"},
        {"basic_english": "word " * 17},
        {"king_james": "These are 7 basic ones"},
        {"modern": "Thus spake 7 olden tongue"},
    ],
)
def test_a_verse_that_is_long_or_alike_in_two_bibles_is_not_distinctive(preparation, changes):
    assert preparation.is_distinctive(verse(preparation, 7))
    assert not preparation.is_distinctive(verse(preparation, 7, **changes))


def test_a_prompt_occurs_once(preparation):
    verses = [verse(preparation, number, modern="He said the same words") for number in range(9)]
    assert len(list(preparation.demonstrations(verses))) == 1


@pytest.fixture(scope="module")
def classifier(classifier_code):
    words = ("a house", "the river", "his son", "two men", "bread and wine", "the king")
    return classifier_code.fit_classifier(
        [
            {
                "king_james": f"He goeth unto {each}",
                "basic_english": f"He is going to {each}",
                "modern": f"He went toward {each}",
            }
            for each in words
        ]
    )


def test_the_classifier_knows_the_three_wordings_on_other_verses(classifier):
    texts = ["She goeth unto them", "She is going to them", "She went toward them"]
    assert classifier.label(texts) == ["king_james", "basic_english", "modern"]


def test_a_text_with_features_of_no_or_two_classes_is_unclear(classifier):
    assert classifier.label(["Selah", "He goeth unto is going to"]) == ["unclear", "unclear"]


def test_a_posterior_is_the_softmax_of_the_weights_of_the_features_present(classifier):
    text = "goeth unto nowhere goeth"  # twice the same word is one feature; an unknown one is none
    known = ["<start>", "goeth", "unto", "goeth unto"]
    logits = classifier.bias + sum(classifier.weights[classifier.features[name]] for name in known)
    torch.testing.assert_close(classifier.posteriors([text])[0], logits.softmax(0))
    # the same text after another one: rows do not overlap
    torch.testing.assert_close(classifier.posteriors(["He went", text])[1], logits.softmax(0))


def test_shares_balance_and_distance_are_those_counted(comparison):
    labels = ["king_james"] * 6 + ["basic_english"] * 2 + ["modern"] + ["unclear"]
    expert = ["king_james"] * 5 + ["basic_english"] * 4 + ["modern"] * 0 + ["unclear"]
    result = comparison.label_shares(labels, expert)
    shares = {name: estimate.value for name, estimate in result.shares.items()}
    assert shares == {"king_james": 0.6, "basic_english": 0.2, "modern": 0.1, "unclear": 0.1}
    assert result.balance.value == pytest.approx(6 / 8)
    assert result.distance.value == pytest.approx((0.1 + 0.2 + 0.1 + 0.0) / 2)
    assert comparison.label_shares(labels, labels).distance == (0.0, 0.0, 0.0)


def test_an_interval_is_as_wide_as_the_binomial_says(comparison):
    labels = ["king_james", "basic_english"] * 128
    low, high = comparison.label_shares(labels, labels).shares["king_james"][1:]
    half = 1.96 * math.sqrt(0.25 / 256)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=0.01)
    assert comparison.label_shares(labels, labels).shares["modern"] == (0.0, 0.0, 0.0)


def test_a_balance_of_nothing_is_undefined_and_shown_as_a_dash(comparison):
    balance = comparison.label_shares(["modern", "unclear"], ["king_james"] * 2).balance
    assert math.isnan(balance.value)
    assert str(balance) == "-"
    assert str(comparison.Estimate(0.6, 0.54, 0.66)) == "60\N{PLUS-MINUS SIGN}6"


def write_run(folder, responses):
    (folder / "config.yaml").write_text("objective: {divergence: reverse_kl}\n")
    rows = [
        {"phase": phase, "prompt_id": number, "prompt": "p", "finish_reason": "STOP"}
        | {"expert": "He goeth unto it" if number else "He is going to it", "response": response}
        for phase, texts in responses.items()
        for number, response in enumerate(texts)
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_run(folder)


def test_a_run_is_classified_by_phase_with_its_expert(comparison, classifier, tmp_path):
    run = write_run(
        tmp_path,
        {"before": ["He went toward it"] * 2, "after": ["He goeth unto it", "He is going to it"]},
    )
    shares = comparison.classify_run(classifier, run)
    assert shares["before"].shares["modern"].value == 1.0
    assert shares["before"].distance.value == 1.0
    assert shares["after"].balance.value == shares["expert"].balance.value == 0.5
    assert shares["after"].distance.value == 0.0


def test_table_and_plot_show_the_shares(comparison, classifier, tmp_path):
    run = write_run(tmp_path, {"after_sft": ["Selah"] * 2, "after": ["He goeth unto it"] * 2})
    shares = comparison.classify_run(classifier, run)
    text = io.StringIO()
    Console(file=text, width=80).print(comparison.comparison_table([run], [shares]))
    assert "reverse KL after 100\N{PLUS-MINUS SIGN}0" in " ".join(text.getvalue().split())
    axes = comparison.draw_comparison([run], [shares]).axes[0]
    heights = [[bar.get_height() for bar in bars.patches] for bars in axes.containers[::2]]
    assert heights == [[100.0, 0.0, 0.0, 0.0], [50.0, 50.0, 0.0, 0.0]]
    diamonds = axes.lines[0].get_ydata().tolist()
    assert diamonds == [0.0, 0.0, 0.0, 100.0]


def test_a_run_without_responses_is_an_error(comparison, classifier, tmp_path):
    with pytest.raises(SystemExit, match="has no responses yet"):
        comparison.classify_run(classifier, write_run(tmp_path, {}))
