"""Write models and data of small.yaml: a teacher, and a student that is too small to match it.

    python -m deploy.examples.two_translations.prepare_small

Both are Llamas without pretraining, with a vocabulary trained on the verses, so that whole runs
take minutes on two cores. The teacher is trained on the demonstrations, King James with
probability 0.6 and Basic English with 0.4, and is then an expert of known probabilities. The
student has a seventh of its size. The verses are those that job.yaml does not train on; a fifth of
them is kept for the classifier.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from deploy.examples.king_james.prepare import write_rows
from deploy.examples.two_translations.prepare import CLASSIFIER, FOLDER, KING_JAMES_SHARE
from deploy.examples.two_translations.prepare import main as prepare_large

SMALL = FOLDER / "small"
WORDS = range(4, 27)
"""Words of each wording: a small model cannot learn longer verses, and some are empty."""
MAX_TOKENS = 48
VOCAB_SIZE = 2048
DEMONSTRATION_SHARE = 0.8
SIZES = {
    "teacher": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4},
    "student": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1},
}
HEAD_DIM = 32


def uniform_of_text(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_verses(verses: list[dict[str, str]]) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Split rows of classifier.jsonl into demonstrations and rows for the classifier."""
    demonstrations, left = [], []
    for verse in verses:
        modern, wordings = verse["modern"], (verse["king_james"], verse["basic_english"])
        is_fit = all(len(text.split()) in WORDS for text in (modern, *wordings))
        if is_fit and uniform_of_text("split" + modern) < DEMONSTRATION_SHARE:
            response = wordings[uniform_of_text(modern) >= KING_JAMES_SHARE]
            demonstrations.append({"prompt": modern, "response": response})
        else:
            left.append(verse)
    return demonstrations, left


def make_tokenizer(demonstrations: list[dict[str, str]]) -> PreTrainedTokenizerFast:
    """Train a byte-pair vocabulary on prompts and responses."""
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    pieces.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sides = ([row[side] for row in demonstrations] for side in ("prompt", "response"))
    pieces.train_from_iterator([text for side in sides for text in side], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=pieces, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def write_model(folder: Path, tokenizer: PreTrainedTokenizerFast, seed: int, **size: int) -> None:
    """Write a randomly initialized model and its tokenizer."""
    torch.manual_seed(seed)
    ids: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    num_heads = size["hidden_size"] // HEAD_DIM
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=HEAD_DIM,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        **size,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Write the files that are missing."""
    prepare_large()
    if (SMALL / "student").exists():
        return
    SMALL.mkdir(parents=True, exist_ok=True)
    verses = [json.loads(line) for line in CLASSIFIER.read_text(encoding="utf-8").splitlines()]
    demonstrations, left = split_verses(verses)
    tokenizer = make_tokenizer(demonstrations)
    fitting = [
        row
        for row in demonstrations
        if max(len(tokenizer(row[side]).input_ids) for side in row) <= MAX_TOKENS
    ]
    write_rows(fitting, SMALL / "demonstrations.jsonl")
    write_rows(left, SMALL / "classifier.jsonl")
    for seed, (name, size) in enumerate(SIZES.items()):
        write_model(SMALL / name, tokenizer, seed, **size)


if __name__ == "__main__":
    sys.exit(main())
