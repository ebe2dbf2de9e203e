import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.report.run.text_metrics import (
    MAX_SELF_BLEU_TEXTS,
    MatchCount,
    chrf,
    copied_count,
    distinct_n,
    matching_count,
    mean_chrf,
    self_bleu,
    words,
)


def test_words_ignore_case_and_punctuation_but_keep_apostrophes():
    assert words("Don't go, THOU\u2019rt 3:16!") == ["don't", "go", "thou\u2019rt", "3", "16"]


def test_distinct_n_counts_over_all_texts_together():
    texts = ["a b a", "A b"]
    # 1-grams a b a a b: 2 of 5. 2-grams ab ba ab: 2 of 3. 3-grams aba: 1 of 1. No 4-grams.
    assert [distinct_n(texts, n) for n in (1, 2, 3, 4)] == [2 / 5, 2 / 3, 1.0, None]


def test_self_bleu_of_equal_texts_is_one_and_of_disjoint_texts_zero():
    assert self_bleu(["a b c d e"] * 3) == pytest.approx(1.0)
    assert self_bleu(["a b", "a b"]) == pytest.approx(1.0)
    assert self_bleu(["a b c d", "e f g h"]) == 0.0


def test_self_bleu_of_fewer_than_two_texts_is_undefined():
    assert self_bleu(["a b c d", "", "?!"]) is None


def test_self_bleu_worked_by_hand():
    # "a a b c" against "a b c d e": matches a 1 of 2, b, c: 3/4; ab bc 2/3; abc 1/2; none: 0.1/1.
    # Length 4 against 5: exp(1 - 5/4). The other: abc 3/5, ab bc 2/4, abc 1/3, 0.1/2; no penalty.
    first = (3 / 4 * 2 / 3 * 1 / 2 * 0.1) ** 0.25 * math.exp(1 - 5 / 4)
    second = (3 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** 0.25
    assert self_bleu(["a a b c", "a b c d e"]) == pytest.approx((first + second) / 2)


def test_reference_length_is_the_closest_and_of_two_the_shorter():
    # "a a a" has 1 and 5 words to choose from, both 2 away: 1 is chosen, so no penalty for it.
    score = self_bleu(["a a a", "a", "a a a a a"])
    # "a": matched, closest 3: exp(1 - 3). "a a a": all matched. Five: 3/5, 2/4, 1/3, 0.1/2.
    five = (3 / 5 * 2 / 4 * 1 / 3 * 0.1 / 2) ** 0.25
    assert score == pytest.approx((1 + math.exp(-2) + five) / 3)


def test_of_many_texts_some_at_even_distances_are_compared():
    texts = [f"a b c d {index % 2}" for index in range(4 * MAX_SELF_BLEU_TEXTS)]
    assert self_bleu(texts) == pytest.approx(1.0)  # of every fourth text, all end with 0


def test_chrf_worked_by_hand():
    # "abc" against "abcd": precision 3/3, 2/2, 1/1; recall 3/4, 2/3, 1/2, mean 23/36.
    recall = (3 / 4 + 2 / 3 + 1 / 2) / 3
    assert chrf("a bc", "ab cd") == pytest.approx(5 * recall / (4 + recall))
    # Recall weighs more, so the other way round is better.
    assert chrf("abcd", "abc") == pytest.approx(5 * recall / (4 * recall + 1))


def test_chrf_is_one_for_the_same_text_and_zero_without_a_common_character():
    assert chrf("Thou art", "Thou art") == pytest.approx(1.0)
    assert chrf("abc", "xyz") == 0.0
    assert chrf("", "xyz") == 0.0
    assert mean_chrf(["ab", "ab"], ["ab", "xy"]) == pytest.approx(0.5)
    assert mean_chrf([], []) is None


def test_matching_count_counts_texts_not_matches():
    pattern = re.compile(r"\bthee\b", re.IGNORECASE)
    assert matching_count(["thee THEE", "Thee", "theem", ""], pattern) == MatchCount(2, 4)
    assert matching_count([], pattern) is None


def test_copies_are_found_without_regard_to_case_and_punctuation():
    assert copied_count(
        ["I see.", "I see", "I see"], ["i SEE", "I see you", "see I"]
    ) == MatchCount(1, 3)


def test_wilson_interval_solves_its_equation():
    # The ends p of the interval satisfy (share - p)^2 = z^2 p (1 - p) / n.
    for end in MatchCount(3, 10).interval:
        assert (0.3 - end) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / 10, rel=1e-6)
    # Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662.
    assert MatchCount(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.integers(1, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_share_and_stays_in_range(counts):
    share = MatchCount(*counts)
    low, high = share.interval
    assert 0.0 <= low <= share.fraction <= high <= 1.0
