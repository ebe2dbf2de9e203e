"""Text to token ids, as the model was taught to read a conversation.

A model with a chat template reads its prompts through it. For one without, a base model, the rule
is plain concatenation: the system prompt and a blank line, if there is a system prompt; the prompt;
a line break; the response. What was said before reads the same: a message of the user ends with a
line break, one of the assistant or the system with a blank line. Either way the tokenizer's own
first token (BOS) comes first if the tokenizer puts one there, and the end token closes the
response.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from alignment.data.conversations import Answered, Turn, Turns

PROBE = "(a response)"
"""A response that stands for any: only what the template writes behind it is of interest."""


class ConversationTokens(NamedTuple):
    """One prompt and a response to it as the model sees them."""

    prompt: NDArray[np.int32]
    """[token] up to where the response begins."""
    response: NDArray[np.int32]
    """[token] the end token included."""


def prompt_text(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    system_prompt: str | None,
    history: Turns = (),
) -> str:
    """Return all that comes before the response, special tokens written out.

    Args:
        system_prompt: opens the conversation, if given.
        history: the turns before the prompt.

    Returns:
        The text.

    Raises:
        ValueError: if history has a system message and there is a system prompt as well, or the
            chat template takes no such conversation.
    """
    if system_prompt is not None and any(turn.role == "system" for turn in history):
        raise ValueError(
            "has a system message, and data.system_prompt is set as well; remove one of the two"
        )
    opening = () if system_prompt is None else (Turn("system", system_prompt),)
    turns = (*opening, *history, Turn("user", prompt))
    if tokenizer.chat_template is None:
        return _first_token(tokenizer) + "".join(
            f"{text}\n" if role == "user" else f"{text}\n\n" for role, text in turns
        )
    messages = _messages(turns)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        roles = ", ".join(turn.role for turn in turns)
        raise ValueError(
            f"the model's chat template does not take a conversation of {roles} ({error}); "
            "change the row, or take a model that does"
        ) from error
    return str(text)


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
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Answered], system_prompt: str | None
) -> list[ConversationTokens]:
    """Tokenize rows, so that prompt and response joined are the conversation's tokens.

    A response is tokenized behind its prompt and cut off, since some tokenizers write the first
    word of a text differently. Where a token would span the border there is no such cut; then the
    response is tokenized alone, as the policy, which never sees half a token, would write it.

    Args:
        system_prompt: opens every conversation, if given.

    Returns:
        One pair a response, those of a row beside one another, in order.

    Raises:
        ValueError: naming a row that the model cannot read.
    """
    end = np.asarray([end_token_id(tokenizer)], np.int32)
    responses = [response for row in rows for response in row.responses]
    texts = [
        text
        for number, row in enumerate(rows, start=1)
        for text in [_text_of_row(tokenizer, row, system_prompt, number)] * len(row.responses)
    ]
    prompts = _ids(tokenizer, texts)
    wholes = _ids(tokenizer, [t + response for t, response in zip(texts, responses, strict=True)])
    pairs = []
    for response, prompt, whole in zip(responses, prompts, wholes, strict=True):
        is_prefix = np.array_equal(whole[: len(prompt)], prompt)
        tokens = whole[len(prompt) :] if is_prefix else _ids(tokenizer, [response])[0]
        pairs.append(ConversationTokens(prompt, np.concatenate([tokens, end])))
    return pairs


def _text_of_row(
    tokenizer: PreTrainedTokenizerBase, row: Answered, system_prompt: str | None, number: int
) -> str:
    """Return a row's prompt_text, or raise naming the row."""
    try:
        return prompt_text(tokenizer, row.prompt, system_prompt, row.history)
    except ValueError as error:
        raise ValueError(f"row {number} of the data: {error}") from error


def _messages(turns: Turns) -> list[dict[str, str]]:
    return [{"role": turn.role, "content": turn.text} for turn in turns]


def _after_a_response(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the chat template writes behind a response."""
    conversation = _messages((Turn("user", PROBE), Turn("assistant", PROBE)))
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
