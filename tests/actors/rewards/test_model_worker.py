import math

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from actors.errors import InvalidInputError, RewardError
from actors.rewards.model_worker import RewardModelWorker, batches_by_length
from alignment.mdp.trajectories import concatenate, pack
from tests.fakes.tiny_llama import save_tiny_llama

WORDS = ["<pad>", "<unk>", "</s>", *(f"w{number}" for number in range(3, 64))]


def save_tokenizer(folder, chat_template=None):
    vocab = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    save_tokenizer(folder)
    return save_tiny_llama(folder)


def save_reward_model(folder, *, chat_template=None, **changes):
    torch.manual_seed(1)
    settings = {"num_labels": 1, "pad_token_id": None, "max_position_embeddings": 64} | changes
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
        **settings,
    )
    LlamaForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder, chat_template)
    return str(folder)


def trajectories():
    """Of different lengths, end token and all; the third prompt is empty but for special tokens."""
    return concatenate(
        [
            pack([5, 6, 7], [8, 9, 2], prompt_id=10),
            pack([5], [11, 12, 13, 14, 15, 16, 2], prompt_id=11),
            pack([2], [9], prompt_id=12),
            pack([3, 4, 5, 6, 7, 8, 9, 10], [20, 21], prompt_id=13),
            pack([5, 6, 7], [3, 5, 2], prompt_id=14),
        ]
    )


EXPERT = ["w8 w9"] * 5


@pytest.mark.parametrize("pad_token_id", [None, 0])
def test_a_reward_is_the_models_output_on_the_text_alone(policy, tmp_path, pad_token_id):
    folder = save_reward_model(tmp_path, pad_token_id=pad_token_id)
    rewards = RewardModelWorker(folder, policy).score(trajectories(), EXPERT)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    for row in range(5):
        # Both tokenizers are the same, so the text is the tokens without the end token.
        tokens = [*trajectories().prompt(row), *trajectories().response(row)]
        kept = torch.tensor([[token for token in tokens if token != 2]]).long()
        with torch.no_grad():
            expected = model(input_ids=kept).logits.item()
        assert math.isclose(rewards[row], expected, rel_tol=1e-4, abs_tol=1e-5)
    assert len(set(rewards.round(4).tolist())) == 5


def test_a_reward_does_not_depend_on_what_else_is_scored(policy, tmp_path):
    worker = RewardModelWorker(save_reward_model(tmp_path), policy)
    together = worker.score(trajectories(), EXPERT)
    for rows in ([0], [1], [3, 0], [4, 3, 2, 1, 0]):
        part = worker.score(trajectories().select(rows), EXPERT[: len(rows)])
        np.testing.assert_allclose(part, together[rows], atol=1e-5)


def test_an_encoder_does_not_see_padding_either(policy, tmp_path):
    # Attention both ways would reach padding that is not masked; an encoder has a pad token.
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.2,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    worker = RewardModelWorker(str(tmp_path), policy)
    together = worker.score(trajectories(), EXPERT)
    alone = [worker.score(trajectories().select([row]), EXPERT[:1])[0] for row in range(5)]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_a_reward_model_with_a_chat_template_reads_a_conversation(policy, tmp_path):
    mark = "{{ 'w60 ' if m.role == 'user' else 'w61 ' }}"
    template = "{% for m in messages %}" + mark + "{{ m.content }} {% endfor %}"
    folder = save_reward_model(tmp_path, chat_template=template)
    reward = RewardModelWorker(folder, policy).score(trajectories().select([0]), EXPERT[:1])
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = model(input_ids=torch.tensor([[60, 5, 6, 7, 61, 8, 9]])).logits.item()
    assert math.isclose(reward[0], expected, rel_tol=1e-4, abs_tol=1e-5)


def test_a_model_without_its_head_or_with_several_outputs_is_refused(policy, tmp_path):
    with pytest.raises(InvalidInputError, match="has 2 outputs"):
        RewardModelWorker(save_reward_model(tmp_path, num_labels=2), policy)
    headless = save_tiny_llama(tmp_path / "policy")  # a language model has no score.weight
    config = LlamaConfig.from_pretrained(headless, num_labels=1)
    config.save_pretrained(headless)
    save_tokenizer(headless)
    with pytest.raises(InvalidInputError, match=r"score\.weight.*random"):
        RewardModelWorker(headless, policy)


def test_a_text_beyond_the_context_is_an_error_and_is_not_cut(policy, tmp_path):
    worker = RewardModelWorker(save_reward_model(tmp_path, max_position_embeddings=9), policy)
    with pytest.raises(RewardError, match=r"prompt 13: .* 10 .* context of 9"):
        worker.score(trajectories(), EXPERT)


def test_a_model_that_returns_nan_is_an_error(policy, tmp_path):
    folder = save_reward_model(tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.score.weight.data.fill_(math.nan)
    model.save_pretrained(folder)
    with pytest.raises(RewardError, match=r"prompt 10: the reward is .*nan"):
        RewardModelWorker(folder, policy).score(trajectories(), EXPERT)


def test_batches_hold_every_sequence_once_within_their_limit():
    lengths = [5, 1, 9, 2, 2, 30]
    batches = batches_by_length(lengths, max_tokens=10)
    # Sorted 1 2 2 | 5 | 9 | 30: three of 2 take 6, four of 5 would take 20; 30 is alone.
    assert batches == [[1, 3, 4], [0], [2], [5]]
    assert batches_by_length([], 10) == []
