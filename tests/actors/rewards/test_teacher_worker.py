import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from actors.config.scorers import TeacherConfig
from actors.errors import InvalidInputError
from actors.model_files import load_output_head
from actors.rewards.teacher_worker import TeacherWorker, check_teacher
from alignment.divergences.full_vocabulary import Teacher
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import concatenate, pack
from alignment.models.policy import load_policy
from tests.fakes.tiny_llama import VOCAB_SIZE, save_tiny_llama

TEMPERATURE = 0.7
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def save_tokenizer(folder, words=None):
    vocab = {word: i for i, word in enumerate(words or map(str, range(VOCAB_SIZE)))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="0"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="0").save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    save_tokenizer(folder)
    return save_tiny_llama(folder, tied=False, num_layers=1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    save_tokenizer(folder)
    return save_tiny_llama(folder)


def make_worker(teacher, *, max_tokens=4096, temperature=TEMPERATURE, autocast="float32"):
    return TeacherWorker(
        TeacherConfig(model=str(teacher)),
        max_tokens_per_microbatch=max_tokens,
        temperature=temperature,
        autocast=autocast,
    )


def trajectories():
    """Groups of different sizes, the longest in the middle, so that packing reorders them."""
    rng = np.random.default_rng(0)
    return concatenate(
        [
            pack(
                np.random.default_rng(prompt_id).integers(3, VOCAB_SIZE, 2 + prompt_id).tolist(),
                rng.integers(3, VOCAB_SIZE, length).tolist(),
                prompt_id=prompt_id,
            )
            for prompt_id, length in [(0, 2), (1, 9), (1, 8), (1, 1), (2, 5), (3, 3), (3, 12)]
        ]
    )


def plain_logits(model, batch):
    """[response token, vocab] by transformers, one trajectory after the other."""
    model = AutoModelForCausalLM.from_pretrained(model).eval()
    logits = []
    for row in range(len(batch)):
        prompt, response = batch.prompt(row), batch.response(row)
        tokens = torch.from_numpy(np.concatenate([prompt, response])).long()[None]
        with torch.no_grad():
            logits.append(model(input_ids=tokens).logits[0, len(prompt) - 1 : -1])
    return torch.cat(logits)


def response_tokens(batch):
    return torch.from_numpy(batch.token_ids[batch.action_mask]).long()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_plain_transformers(teacher, temperature):
    batch = trajectories()
    logprobs = make_worker(teacher, temperature=temperature, max_tokens=25).logprobs(batch)
    expected = (plain_logits(teacher, batch) / temperature).log_softmax(-1)
    expected = expected.gather(1, response_tokens(batch)[:, None])[:, 0]
    assert logprobs.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(logprobs), expected, **CLOSE)


def test_states_times_the_head_are_the_logits(teacher):
    batch = trajectories()
    states = make_worker(teacher, max_tokens=25).states(batch)
    logits = torch.from_numpy(states) @ load_output_head(teacher).T
    assert states.dtype == np.float32
    torch.testing.assert_close(logits, plain_logits(teacher, batch), **CLOSE)


@pytest.mark.parametrize("method", ["logprobs", "states"])
def test_scores_do_not_depend_on_the_other_responses(teacher, method):
    batch = trajectories()
    together = getattr(make_worker(teacher), method)(batch)
    for max_tokens in (17, 25, 40):  # with 17 tokens each response to prompt 1 is alone
        score = getattr(make_worker(teacher, max_tokens=max_tokens), method)
        np.testing.assert_allclose(score(batch), together, atol=2e-5)
        for rows in ([6], [4, 1], [3, 2, 1, 6, 0]):
            np.testing.assert_allclose(
                score(batch.select(rows)), batch.select_values(together, rows), atol=2e-5
            )


def test_the_policy_forms_the_teachers_logits_itself(teacher, policy):
    whole = trajectories()
    model, head = load_policy(policy), load_output_head(teacher)
    states = make_worker(teacher).states(whole)
    batches = microbatches(whole, 40)
    p, q = (
        (plain_logits(name, whole) / TEMPERATURE).softmax(-1).double() for name in (teacher, policy)
    )
    expected = (p * (p / q).log()).sum(-1).float().numpy()
    assert len(batches) > 1
    for batch in batches:
        rows = batch.trajectory_indices.numpy()
        of_batch = torch.from_numpy(whole.select_values(states, rows))
        of_teacher = Teacher(of_batch, head, "forward_kl", {})
        scores, divergences = model(batch, TEMPERATURE, of_teacher)
        np.testing.assert_allclose(
            divergences.detach().numpy(), whole.select_values(expected, rows), rtol=1e-3, atol=1e-4
        )
        plain, nothing = model(batch, TEMPERATURE)
        assert nothing is None
        assert [x.tolist() for x in plain] == [x.tolist() for x in scores]
    divergences.sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


def test_a_policy_that_is_the_teacher_has_nothing_to_learn(policy):
    whole = trajectories()
    model = load_policy(policy)
    (batch,) = microbatches(whole, 4096)
    states = torch.from_numpy(make_worker(policy).states(whole))
    of_teacher = Teacher(states, load_output_head(policy), "reverse_kl", {})
    *_, divergences = model(batch, TEMPERATURE, of_teacher)
    divergences.sum().backward()
    torch.testing.assert_close(divergences, torch.zeros_like(divergences), atol=1e-6, rtol=0.0)
    assert max(float(p.grad.abs().max()) for p in model.parameters()) < 1e-5


def test_half_precision_rounds_and_returns_float32(teacher):
    batch = trajectories()
    exact, rounded = (make_worker(teacher, autocast=a) for a in ("float32", "bfloat16"))
    for method in ("logprobs", "states"):
        values, near = (getattr(worker, method)(batch) for worker in (exact, rounded))
        assert near.dtype == np.float32
        assert np.abs(values - near).max() > 0
        np.testing.assert_allclose(near, values, atol=0.15)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("max_shard_size", ["1GB", "9KB"])
def test_the_head_is_the_models_in_one_file_or_in_many(tmp_path, tied, max_shard_size):
    model = AutoModelForCausalLM.from_pretrained(save_tiny_llama(tmp_path / "whole", tied=tied))
    model.bfloat16().save_pretrained(tmp_path / "saved", max_shard_size=max_shard_size)
    assert (len(list((tmp_path / "saved").glob("*.safetensors"))) > 1) == (max_shard_size == "9KB")
    head = load_output_head(str(tmp_path / "saved"))
    assert head.dtype == torch.float32
    assert torch.equal(head, model.lm_head.weight.float())
    assert torch.equal(head, model.model.embed_tokens.weight.float()) == tied


def test_a_model_without_its_head_is_refused(tmp_path):
    folder = save_tiny_llama(tmp_path, tied=False)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InvalidInputError, match=r"hold no lm_head\.weight, the output head"):
        load_output_head(folder)


def test_a_teacher_with_the_policys_tokens_is_welcome_whatever_its_size(teacher, policy):
    check_teacher(teacher, policy)


def test_a_teacher_with_a_larger_vocabulary_is_refused(tmp_path, policy):
    LlamaConfig.from_pretrained(policy, vocab_size=70).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(InvalidInputError, match=r"vocabulary of 70 tokens, the policy .* 64; choo"):
        check_teacher(str(tmp_path), policy)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["0", "2", "1", *map(str, range(3, 64))], r"2 tokens different ids \('1' is 2 and 1"),
        (map(str, range(63)), r"1 tokens different ids \('63' is None and 63"),
    ],
)
def test_a_teacher_that_numbers_tokens_otherwise_is_refused(tmp_path, policy, words, message):
    LlamaConfig.from_pretrained(policy).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, words)
    with pytest.raises(InvalidInputError, match=message):
        check_teacher(str(tmp_path), policy)


def test_a_teacher_whose_logits_are_no_plain_product_is_refused(tmp_path, policy):
    config = LlamaConfig.from_pretrained(policy)
    config.final_logit_softcapping = 30.0
    config.save_pretrained(tmp_path)
    with pytest.raises(InvalidInputError, match="final_logit_softcapping"):
        check_teacher(str(tmp_path), policy)
