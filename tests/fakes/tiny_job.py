"""A job small enough for a test: a random Llama with words for tokens, and twenty rows."""

import json

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<unk>", "</s>", "user", "assistant", "a", "b", "c", "d"]
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' ' }}"
    "{% if m['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def save_tiny_model(folder, seed=0, hidden_size=16):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden_size,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=32,
        max_position_embeddings=64,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tiny_tokenizer(folder)


def save_tiny_tokenizer(folder):
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="</s>", unk_token="<unk>", chat_template=CHAT_TEMPLATE
    )
    tokenizer.save_pretrained(folder)


def write_rows(place, rows):
    (place / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def save_tiny_job(place, hidden_size=16):
    """Write a model, data.jsonl and job.yaml to a folder."""
    save_tiny_model(place / "model", hidden_size=hidden_size)
    write_rows(place, [{"prompt": f"a {i}", "response": "b c"} for i in range(20)])
    limits = {"max_prompt_tokens": 8, "max_response_tokens": 4}
    data = {"path": "data.jsonl", "held_out_fraction": 0.3, **limits}
    job = {"name": "tiny", "model": {"name": "./model"}, "data": data}
    (place / "job.yaml").write_text(json.dumps(job))  # JSON is YAML
