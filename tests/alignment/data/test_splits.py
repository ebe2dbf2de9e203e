import os
import random
import subprocess
import sys
import unicodedata
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.conversations import Turn
from alignment.data.demonstrations import Demonstration
from alignment.data.splits import is_held_out, normalized, prompt_of_draw, split_rows


def draws(numbers, num_prompts, seed=0):
    return [prompt_of_draw(number, num_prompts=num_prompts, seed=seed) for number in numbers]


@given(num_prompts=st.integers(1, 12), epoch=st.integers(0, 50), seed=st.integers(-3, 3))
def test_every_epoch_holds_every_prompt_once(num_prompts, epoch, seed):
    numbers = range(epoch * num_prompts, (epoch + 1) * num_prompts)
    assert sorted(draws(numbers, num_prompts, seed)) == list(range(num_prompts))


@given(numbers=st.permutations(range(24)))
def test_a_draw_is_the_same_prompt_whenever_it_is_asked_for(numbers):
    in_order = draws(range(24), 6)
    assert draws(numbers, 6) == [in_order[number] for number in numbers]


@given(num_prompts=st.integers(2, 5), seed=st.integers(-3, 99))
def test_no_prompt_is_drawn_twice_in_a_row(num_prompts, seed):
    found = draws(range(20 * num_prompts), num_prompts, seed)
    assert not [number for number, pair in enumerate(pairwise(found)) if pair[0] == pair[1]]


def test_seed_and_epoch_each_change_the_order():
    orders = {
        tuple(draws(range(epoch * 50, epoch * 50 + 50), 50, seed))
        for seed in (0, 1, -1)
        for epoch in (0, 1, 2)
    }
    assert len(orders) == 9
    assert tuple(range(50)) not in orders


def test_the_order_is_a_known_one():
    # A run resumed on another machine, or by a later version, must go on in the same order.
    assert draws(range(2, 10), 6, seed=3) == [4, 1, 3, 0, 1, 2, 0, 4]


@pytest.mark.parametrize(("num_prompts", "number"), [(0, 0), (3, -1)])
def test_a_draw_that_does_not_exist_is_an_error(num_prompts, number):
    with pytest.raises(ValueError, match=f"no draw number {number} of {num_prompts} prompts"):
        prompt_of_draw(number, num_prompts=num_prompts, seed=0)


def rows_of(prompts):
    return [Demonstration(prompt, str(i)) for i, prompt in enumerate(prompts)]


@given(prompts=st.lists(st.integers(0, 60).map(str), min_size=2), seed=st.integers(0, 99))
def test_the_split_is_a_partition_that_follows_the_text_and_not_the_order(prompts, seed):
    def held_out_texts(texts):
        try:
            split = split_rows(rows_of(texts), 0.5)
        except ValueError:
            return None
        assert sorted(split.train + split.held_out) == list(range(len(texts)))
        assert not {texts[i] for i in split.train} & {texts[i] for i in split.held_out}
        return sorted(texts[i] for i in split.held_out)

    shuffled = list(prompts)
    random.Random(seed).shuffle(shuffled)
    assert held_out_texts(prompts) == held_out_texts(shuffled)


def test_the_held_out_share_is_the_fraction_asked_for():
    held_out = sum(is_held_out(f"prompt {i}", 0.2) for i in range(10_000))
    assert abs(held_out - 2000) < 4 * 40  # four standard deviations: sqrt(10000 * 0.2 * 0.8) = 40


def test_a_larger_fraction_holds_out_all_that_a_smaller_one_did():
    prompts = [str(i) for i in range(1000)]
    small, large = ({p for p in prompts if is_held_out(p, f)} for f in (0.1, 0.3))
    assert small < large


def test_prompts_that_look_alike_are_on_the_same_side():
    variants = (
        str.upper,
        str.title,
        lambda text: f"  {text}\n",
        lambda text: text.replace(" ", "\u00a0\t"),
        lambda text: unicodedata.normalize("NFD", text),
        lambda text: unicodedata.normalize("NFD", text).upper(),
    )
    for number in range(200):
        prompt = f"Übersetze den Café-Satz {number}: straße"
        sides = {is_held_out(vary(prompt), 0.5) for vary in variants}
        assert sides == {is_held_out(prompt, 0.5)}
    assert normalized(" Straße\u2028CAFE\u0301 ") == "strasse caf\u00e9"
    assert normalized("a b") != normalized("ab")


@given(text=st.text())
def test_normalizing_twice_changes_nothing_more(text):
    assert normalized(normalized(text)) == normalized(text)


def test_the_side_of_a_prompt_is_the_same_in_every_process():
    # Known answers: blake2b of these texts never changes, whatever PYTHONHASHSEED is.
    code = "from alignment.data.splits import is_held_out as h;"
    code += "print([i for i in range(20) if h(str(i), 0.3)])"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    here = [i for i in range(20) if is_held_out(str(i), 0.3)]
    assert shown.stdout.strip() == str(here) == "[2, 6, 17, 18]"


@pytest.mark.parametrize(
    ("fraction", "counts"),
    [(1e-9, "3 rows to train on and 0"), (0.999999, "0 rows to train on and 3")],
)
def test_a_side_without_rows_is_an_error(fraction, counts):
    with pytest.raises(ValueError, match=counts):
        split_rows(rows_of("abc"), fraction)


def test_what_was_said_before_belongs_to_the_prompt():
    before = [(Turn("user", str(i)), Turn("assistant", "b")) for i in range(1000)]
    held_out = sum(is_held_out("a", 0.5, history) for history in before)
    assert abs(held_out - 500) < 4 * 16  # sqrt(1000 * 0.5 * 0.5) = 16
    # Known answers: without a history they are those of a text alone.
    assert [i for i in range(20) if is_held_out(str(i), 0.3, ())] == [2, 6, 17, 18]
