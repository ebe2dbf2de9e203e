"""Text to token ids, as the model was taught to read a conversation.

A model with a chat template reads its prompts through it. For one without, a base model, the rule
is plain concatenation: the system prompt and a blank line, if there is a system prompt; the prompt;
a line break; the response. Either way the tokenizer's own first token (BOS) comes first if the
tokenizer puts one there, and the end token closes the response.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignment.data.demonstrations import Demonstration

PROBE = "(a response)"
"""A response that stands for any: only what the template writes behind it is of interest."""


class ConversationTokens(NamedTuple):
    """One demonstration as the model sees it."""

    prompt: NDArray[np.int32]
    """[token] up to where the response begins."""
    response: NDArray[np.int32]
    """[token] the end token included."""


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str, system_prompt: str | None) -> str:
    """Return all that comes before the response, special tokens written out."""
    if tokenizer.chat_template is None:
        opening = "" if system_prompt is None else f"{system_prompt}\n\n"
        return f"{_first_token(tokenizer)}{opening}{prompt}\n"
    messages = _messages(prompt, system_prompt)
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(rendered)


def prompt_token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, system_prompt: str | None
) -> NDArray[np.int32]:
    """Return the token ids of a prompt, ready for the response to follow."""
    return _ids(tokenizer, [prompt_text(tokenizer, prompt, system_prompt)])[0]


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends a response: what the chat template puts behind one.

    That is the end of a turn, which need not be the end of a text: several models have a token for
    each. Without a template, or with one that ends a turn in plain text, it is the tokenizer's EOS.

    Raises:
        ValueError: if there is neither.
    """
    if tokenizer.chat_template is not None:
        for token_id in _ids(tokenizer, [_after_a_response(tokenizer)])[0].tolist():
            if token_id in _special_ids(tokenizer):
                return int(token_id)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the model's tokenizer has no end token: its chat template ends a turn in plain text "
            "and it names no eos_token; set eos_token in the model's tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def conversation_tokens(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Demonstration], system_prompt: str | None
) -> list[ConversationTokens]:
    """Tokenize demonstrations, so that prompt and response joined are the conversation's tokens.

    A response is tokenized behind its prompt and cut off, since some tokenizers write the first
    word of a text differently. Where a token would span the border there is no such cut; then the
    response is tokenized alone, as the policy, which never sees half a token, would write it.

    Returns:
        One pair a row, in order.
    """
    end = np.asarray([end_token_id(tokenizer)], np.int32)
    texts = [prompt_text(tokenizer, row.prompt, system_prompt) for row in rows]
    prompts = _ids(tokenizer, texts)
    wholes = _ids(tokenizer, [text + row.response for text, row in zip(texts, rows, strict=True)])
    pairs = []
    for row, prompt, whole in zip(rows, prompts, wholes, strict=True):
        is_prefix = np.array_equal(whole[: len(prompt)], prompt)
        response = whole[len(prompt) :] if is_prefix else _ids(tokenizer, [row.response])[0]
        pairs.append(ConversationTokens(prompt, np.concatenate([response, end])))
    return pairs


def _messages(prompt: str, system_prompt: str | None) -> list[dict[str, str]]:
    opening = [] if system_prompt is None else [{"role": "system", "content": system_prompt}]
    return [*opening, {"role": "user", "content": prompt}]


def _after_a_response(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the chat template writes behind a response."""
    conversation = [*_messages(PROBE, None), {"role": "assistant", "content": PROBE}]
    rendered = str(tokenizer.apply_chat_template(conversation, tokenize=False))
    return rendered.rpartition(PROBE)[2]


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Return the ids of the tokens that are not text."""
    added = tokenizer.added_tokens_decoder.items()
    return {i for i, token in added if token.special} | set(tokenizer.all_special_ids)


def _first_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the BOS token as text if this tokenizer opens every text with it, else nothing."""
    opens = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if opens else ""


def _ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[NDArray[np.int32]]:
    """Return the token ids of each text, nothing added."""
    encoded = tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    return [np.asarray(ids, np.int32) for ids in encoded]
