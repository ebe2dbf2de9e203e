import itertools
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.mdp.trajectories import EMPTY, concatenate, pack
from alignment.models.policy import load_policy
from alignment.rewards.log_ratio import log_ratios
from tests.fakes.tiny_job import WORDS, save_tiny_model

NUM, END = len(WORDS), 1
PROMPT = [2, 4, 5]
RESPONSES = [(END,), *itertools.product([t for t in range(NUM) if t != END], range(NUM))]
"""Every response of up to two tokens: 1 + 7 * 8."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("policies")
    for seed, name in enumerate(("sft", "init")):
        save_tiny_model(place / name, seed)
        model = AutoModelForCausalLM.from_pretrained(place / name)
        for parameter in model.parameters():
            parameter.data.mul_(4.0)  # so that the two differ by more than a little
        model.save_pretrained(place / name)
    return place / "sft", place / "init"


@pytest.fixture(scope="module")
def policies(folders):
    return [load_policy(folder) for folder in folders]


def enumerated():
    return concatenate([pack(PROMPT, list(y), prompt_id=0) for y in RESPONSES])


def response_logprobs(folder, temperature):
    """Of every response, by the library's own forward pass on each, without packing."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = []
    for response in RESPONSES:
        with torch.no_grad():
            logits = model(torch.tensor([[*PROMPT, *response]])).logits[0].double() / temperature
        logprobs = logits.log_softmax(-1)[len(PROMPT) - 1 :]
        found.append(sum(logprobs[t, token] for t, token in enumerate(response)))
    return torch.stack(found)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_it_is_the_ratio_of_the_enumerated_policies(folders, policies, temperature):
    ratios = log_ratios(*policies, enumerated(), temperature=temperature, max_tokens=512)
    above, below = (response_logprobs(folder, temperature) for folder in folders)
    torch.testing.assert_close(ratios, above - below, atol=2e-5, rtol=0.0)
    # Tilting the denominator by the reward gives the numerator, whose chances sum to 1
    assert math.isclose((below + ratios).exp().sum().item(), 1.0, abs_tol=1e-5)
    assert ratios.std() > 0.3
    assert not ratios.requires_grad


def test_a_ratio_depends_on_nothing_beside_it_and_not_on_the_microbatch(policies):
    other = pack([6, 7, 4, 4], [5, 6, 7, END], prompt_id=1)
    batch = concatenate([enumerated().select(range(5)), other, enumerated().select([20])])
    whole = log_ratios(*policies, batch, temperature=1.0, max_tokens=512)
    split = log_ratios(*policies, batch, temperature=1.0, max_tokens=8)
    alone = [
        log_ratios(*policies, batch.select([row]), temperature=1.0, max_tokens=512).item()
        for row in range(len(batch))
    ]
    torch.testing.assert_close(split, whole, atol=1e-5, rtol=0.0)
    torch.testing.assert_close(torch.tensor(alone, dtype=torch.float64), whole, atol=1e-5, rtol=0.0)


def test_a_policy_is_not_preferred_to_itself_and_sides_change_the_sign(policies):
    sft, init = policies

    def ratios(above, below):
        return log_ratios(above, below, enumerated(), temperature=1.0, max_tokens=512)

    assert ratios(sft, sft).abs().max() == 0.0
    torch.testing.assert_close(ratios(sft, init), -ratios(init, sft), atol=0.0, rtol=0.0)
    assert len(log_ratios(sft, init, EMPTY, temperature=1.0, max_tokens=512)) == 0


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"temperature": 0.0}, "temperature must be positive; got 0.0"),
        ({"max_tokens": 4}, "more than learner.max_tokens_per_microbatch = 4"),
    ],
)
def test_what_cannot_be_computed_is_an_error(policies, changes, error):
    settings = {"temperature": 1.0, "max_tokens": 512} | changes
    with pytest.raises(ValueError, match=error):
        log_ratios(*policies, enumerated(), **settings)
