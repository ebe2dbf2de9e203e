"""A policy of a few thousand random weights, saved as Hugging Face saves a model."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.fakes.tiny_job import save_tiny_tokenizer

VOCAB_SIZE = 64


def save_tiny_llama(folder, *, tied=True, num_layers=2):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        eos_token_id=2,
        initializer_range=0.2,  # large enough that attention has an effect with random weights
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def save_tiny_policy(folder, **settings):
    """A tiny Llama with a tokenizer."""
    save_tiny_tokenizer(folder)
    return save_tiny_llama(folder, **settings)
