"""Architectures that would train on wrong log-probabilities are refused before anything starts."""

import pytest
import torch
from transformers import CONFIG_MAPPING

from alignment.models.architecture_check import (
    MAX_DIFFERENCE_NATS,
    check_architecture,
    packing_difference,
)

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
    **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"), 1),
}
RIGHT = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text", "phi3", "olmo2", "glm")
CONV = {"layer_types": ["full_attention", "conv", "full_attention", "conv"]}
LEAKING = {
    "qwen3_5_text": {},
    "bloom": {"n_layer": 2, "n_head": 4},
    "recurrent_gemma": {},
    "lfm2": CONV,
    "olmo_hybrid": {},
}


def config_of(name, **settings):
    return CONFIG_MAPPING[name](**SIZES, **settings)


@pytest.mark.parametrize("name", RIGHT)
def test_plain_causal_attention_agrees_with_transformers(name):
    assert packing_difference(config_of(name)) < 1e-5
    check_architecture(config_of(name), 64)


@pytest.mark.parametrize("name", LEAKING)
def test_an_architecture_that_mixes_texts_is_refused_with_its_difference(name):
    config = config_of(name, **LEAKING[name])
    assert packing_difference(config) > 10 * MAX_DIFFERENCE_NATS
    with pytest.raises(
        ValueError, match=rf"^{name} would train on wrong log-prob.*by up to [\d.]+ nats"
    ):
        check_architecture(config, 64)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("gemma2", "final_logit_softcapping"),
        ("granite", "logits_scaling"),
        ("cohere", "logit_scale"),
        ("phi", "a head with bias"),
        ("stablelm", "packed_layout"),
    ],
)
def test_an_architecture_that_cannot_be_computed_is_refused_in_one_sentence(name, reason):
    with pytest.raises(ValueError, match=rf"^{name} .*{reason}.*choose another") as caught:
        check_architecture(config_of(name), 64)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "olmoe"])
def test_a_mixture_of_experts_is_refused(name):
    with pytest.raises(ValueError, match=rf"^{name} is a mixture of \d+ experts"):
        check_architecture(config_of(name), 64)


def test_a_window_matters_only_where_texts_are_longer():
    config = config_of("mistral", sliding_window=32)
    check_architecture(config, 32)
    with pytest.raises(
        ValueError, match=r"window of 32 tokens, and .* up to 33; lower data\.max_pro"
    ):
        check_architecture(config, 33)


def test_the_check_leaves_the_configuration_and_the_random_state_as_they_were():
    config, state = config_of("llama"), torch.get_rng_state()
    before = config.to_dict()
    check_architecture(config, 64)
    assert config.to_dict() == before
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_of_any_width_is_checked_with_a_narrow_one():
    large = SIZES | {"hidden_size": 8192, "num_attention_heads": 64, "intermediate_size": 28672}
    large |= {"num_key_value_heads": 8, "num_hidden_layers": 80, "vocab_size": 128256}
    check_architecture(CONFIG_MAPPING["llama"](**large), 4096)
