"""Command line and models of the benchmarks."""

import argparse
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SMOLLM2_135M = LlamaConfig(
    vocab_size=49152,
    hidden_size=576,
    intermediate_size=1536,
    num_hidden_layers=30,
    num_attention_heads=9,
    num_key_value_heads=3,
    tie_word_embeddings=True,
)


def make_parser(doc):
    """Return a parser that prints the docstring of a benchmark as its help."""
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_model_options(parser):
    parser.add_argument("--model", help="folder of a model in Hugging Face format")
    parser.add_argument("--tiny", action="store_true", help="a small random model, as a smoke test")


def model_folder(parser, options, scratch):
    """Return --model, or the folder of a new small model with --tiny."""
    if options.tiny == bool(options.model):
        parser.error("give either --model or --tiny")
    return save_tiny_model(Path(scratch) / "model") if options.tiny else options.model


def save_tiny_model(folder):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)
