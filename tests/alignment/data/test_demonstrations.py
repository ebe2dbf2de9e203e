import os
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignment.data.demonstrations import (
    Demonstration,
    is_held_out,
    read_demonstrations,
    split_demonstrations,
)


def write(tmp_path, *lines):
    path = tmp_path / "demonstrations.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_rows_are_read_in_order_and_to_the_letter(tmp_path):
    good = '{"prompt": " a\\n", "response": "b \\u2028c", "source": 3}'
    path = write(tmp_path, good, "", '{"response": "\u2028é", "prompt": "d"}', "")
    assert read_demonstrations(path) == [
        Demonstration(" a\n", "b \u2028c"),
        Demonstration("d", "\u2028é"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "response": ', r"line 2: not JSON \(Expecting value at column 29\)"),
        ('["a", "b"]', r"line 2: not an object; write"),
        ('{"prompt": "a"}', r'line 2: has no "response"; add it, or remove the line'),
        ('{"response": "a"}', r'line 2: has no "prompt"'),
        ('{"prompt": "a", "response": 3}', r'line 2: "response" is int, not a string'),
        ('{"prompt": null, "response": "b"}', r'line 2: "prompt" is NoneType, not a string'),
        ('{"prompt": "a", "response": " \\n"}', r'line 2: "response" is empty; fill it'),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, line, message):
    path = write(tmp_path, '{"prompt": "a", "response": "b"}', line)
    with pytest.raises(ValueError, match=message) as error:
        read_demonstrations(path)
    assert str(error.value).startswith(str(path))


def test_a_missing_file_says_which_setting_names_it(tmp_path):
    with pytest.raises(ValueError, match=r"gone\.jsonl: no such file; data\.path must name"):
        read_demonstrations(tmp_path / "gone.jsonl")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_an_error(tmp_path, text):
    with pytest.raises(ValueError, match=r"holds no demonstrations; write"):
        read_demonstrations(write(tmp_path, text))


def test_a_file_that_is_not_text_is_an_error(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"cannot be read as UTF-8 text"):
        read_demonstrations(path)


def rows_of(prompts):
    return [Demonstration(prompt, str(i)) for i, prompt in enumerate(prompts)]


@given(prompts=st.lists(st.integers(0, 60).map(str), min_size=2), seed=st.integers(0, 99))
def test_the_split_is_a_partition_that_follows_the_text_and_not_the_order(prompts, seed):
    def held_out_texts(texts):
        try:
            split = split_demonstrations(rows_of(texts), 0.5)
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


def test_the_side_of_a_prompt_is_the_same_in_every_process():
    # Known answers: blake2b of these texts never changes, whatever PYTHONHASHSEED is.
    code = "from alignment.data.demonstrations import is_held_out as h;"
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
        split_demonstrations(rows_of("abc"), fraction)
