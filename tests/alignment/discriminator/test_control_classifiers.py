import math

import numpy as np
import pytest

from alignment.discriminator.control_classifiers import control_accuracies, white_space_edges
from alignment.discriminator.replay import PromptGroup
from alignment.mdp.trajectories import EMPTY, FinishReason, concatenate, pack

END = 2
LOW = np.arange(3, 30)
SPACED = 40  # from this token on, tokens begin with a space
LINE_BREAK, OTHER_END = 90, 91
PIECES = ["x"] * SPACED + ["\u0120x"] * (LINE_BREAK - SPACED) + ["\u010a", "<end>"]
PIECES += ["x\u010a"] * 300 + ["x"] * 300  # from 92 and from 392 on


def measured(earlier, fresh):
    return control_accuracies(earlier, fresh, white_space_edges(PIECES))


def answers(texts):
    """One response to each of as many prompts."""
    return concatenate(
        [pack([5], [*map(int, text), END], prompt_id=n) for n, text in enumerate(texts)]
    )


def group(seed, respond, num_prompts=60, rollouts_each=2):
    """Responses of both classes, by a function of (random numbers, is_expert)."""
    rng = np.random.default_rng(seed)

    def batch(is_expert, count):
        return answers([respond(rng, is_expert) for _ in range(count)])

    return PromptGroup(batch(False, num_prompts * rollouts_each), batch(True, num_prompts))


def longer(rng, is_expert):
    """The expert says the same words, but more of them."""
    return rng.choice(LOW, rng.integers(12, 18) if is_expert else rng.integers(5, 12))


def other_words(rng, is_expert):
    """Half of the expert's words are others."""
    words = rng.choice(LOW, rng.integers(5, 12))
    return np.where(rng.random(len(words)) < 0.5 * is_expert, words + 30, words)


def other_order(rng, is_expert):
    """The expert says in ascending order what the policy says in descending order."""
    words = np.sort(rng.choice(LOW, rng.integers(5, 12)))
    return words if is_expert else words[::-1]


def accuracies(respond):
    return measured(group(0, respond), group(1, respond))


def test_an_expert_who_is_longer_is_told_by_length():
    assert accuracies(longer)["length_accuracy"] == 1.0


def test_an_expert_with_other_words_is_told_by_words_and_not_by_length():
    figures = accuracies(other_words)
    assert figures["bag_of_words_accuracy"] > 0.9
    assert abs(figures["length_accuracy"] - 0.5) < 0.1


def test_an_expert_with_another_word_order_is_told_by_neither():
    # 120 rollouts and 60 demonstrations: the standard error of the accuracy is 0.04.
    figures = accuracies(other_order)
    assert abs(figures["length_accuracy"] - 0.5) < 0.1
    assert abs(figures["bag_of_words_accuracy"] - 0.5) < 0.1


def test_the_same_multisets_in_another_order_leave_exactly_nothing_to_tell():
    def mirrored(seed):
        rng = np.random.default_rng(seed)
        texts = [other_order(rng, is_expert=True) for _ in range(20)]
        return PromptGroup(answers([text[::-1] for text in texts]), answers(texts))

    found = measured(mirrored(0), mirrored(1))
    assert (found["length_accuracy"], found["bag_of_words_accuracy"]) == (0.5, 0.5)
    assert found["format_accuracy"] > 0.9  # an ascending text has low tokens first


def test_whether_a_response_ended_is_told_by_length_features():
    def cut(is_stopped, count):
        reason = FinishReason.STOP if is_stopped else FinishReason.LENGTH
        return concatenate(
            [pack([5], [7, 8, 9], prompt_id=n, finish_reason=reason) for n in range(count)]
        )

    pair = PromptGroup(cut(False, 8), cut(True, 4))
    assert measured(pair, pair) == {
        "length_accuracy": 1.0,
        "bag_of_words_accuracy": 0.5,
        "format_accuracy": 1.0,
    }


def test_they_measure_what_they_have_not_seen():
    # Learned on the classes exchanged, they are wrong on every fresh response.
    learnt, fresh = group(0, other_words), group(1, longer)
    exchanged = PromptGroup(group(0, longer).demonstrations, group(0, longer).rollouts)
    assert measured(exchanged, fresh)["length_accuracy"] == 0.0
    assert measured(learnt, fresh)["length_accuracy"] < 0.7


def test_nothing_seen_before_tells_nothing():
    nothing = PromptGroup(EMPTY, EMPTY)
    expected = dict.fromkeys(("length_accuracy", "bag_of_words_accuracy", "format_accuracy"), 0.5)
    assert measured(nothing, group(0, longer)) == expected


def test_words_never_seen_are_left_out():
    unknown = PromptGroup(pack([5], [61], prompt_id=0), pack([5], [1], prompt_id=0))
    assert measured(group(0, other_words), unknown)["bag_of_words_accuracy"] == 0.5


@pytest.mark.parametrize("num_prompts", [1, 7])
def test_the_class_ratio_does_not_move_the_threshold(num_prompts):
    # Each class gives the same two responses, the expert the second one twice as often.
    def batch(first, second):
        return answers([[7]] * first + [[8]] * second)

    pair = PromptGroup(batch(4 * num_prompts, 4 * num_prompts), batch(1, 2))
    # On the right side: 2 of 3 demonstrations and half of the rollouts.
    figures = measured(pair, pair)
    assert math.isclose(figures["bag_of_words_accuracy"], (2 / 3 + 1 / 2) / 2)


def test_white_space_is_seen_as_tokenizers_write_it():
    edges = white_space_edges(["a", "\u0120a", "\u2581a", "a\n", " ", "", "\u010a"])
    assert edges[0].tolist() == [False, True, True, False, True, False, True]
    assert edges[1].tolist() == [False, False, False, True, True, False, True]


def trailing(rng, is_expert):
    """The expert says the same, and ends with a line break."""
    words = rng.choice(LOW, rng.integers(5, 12))
    return np.append(words, LINE_BREAK) if is_expert else np.append(words, rng.choice(LOW))


def leading(rng, is_expert):
    """The first word is any of many; only the expert's begins with a space."""
    first = rng.integers(SPACED, 80) if is_expert else rng.integers(3, SPACED)
    return np.append(first, rng.choice(LOW, rng.integers(5, 12)))


def closing(rng, is_expert):
    """The last word is any of very many; only the expert's ends with a line break."""
    last = rng.integers(92, 392) if is_expert else rng.integers(392, 692)
    return np.append(rng.choice(LOW, rng.integers(5, 12)), last)


@pytest.mark.parametrize("respond", [trailing, leading, closing])
def test_an_expert_with_another_format_is_told_by_format(respond):
    found = accuracies(respond)
    assert found["format_accuracy"] > 0.95
    assert abs(found["length_accuracy"] - 0.5) < 0.1


def test_an_expert_with_another_end_token_is_told_by_format_alone():
    def ended(end, seed):
        rng = np.random.default_rng(seed)
        texts = [rng.choice(LOW, 6).tolist() for _ in range(60)]
        return concatenate([pack([5], [*text, end], prompt_id=n) for n, text in enumerate(texts)])

    groups = [PromptGroup(ended(END, seed), ended(OTHER_END, seed + 1)) for seed in (0, 2)]
    assert measured(*groups)["format_accuracy"] == 1.0


def test_the_same_distribution_is_not_told_by_format():
    found = accuracies(lambda rng, _: rng.choice(LOW, rng.integers(5, 12)))
    assert abs(found["format_accuracy"] - 0.5) < 0.12
