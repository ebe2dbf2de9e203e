"""A word-level tokenizer with a chat template, small enough to write down."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["<unk>", "<s>", "</s>", "<turn>", "user", "assistant", "system", "a", "b", "c", "d", "e"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m['role'] + ' ' + m['content'] + ' <turn> ' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def make_tokenizer(chat_template=CHAT_TEMPLATE, **special_tokens):
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>", **special_tokens
    )
    fast.add_special_tokens({"additional_special_tokens": ["<turn>"]})
    fast.chat_template = chat_template
    return fast


@pytest.fixture
def tokenizer():
    return make_tokenizer(eos_token="</s>")


@pytest.fixture
def build_tokenizer():
    return make_tokenizer
