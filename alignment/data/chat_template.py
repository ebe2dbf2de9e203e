"""Text to token ids, as the model was taught to read a conversation.

A model with a chat template reads its prompts through it. For one without, a base model, the rule
is plain concatenation: the system prompt and a blank line, if there is a system prompt; the prompt;
a line break; the response. What was said before reads the same: a message of the user ends with a
line break, one of the assistant or the system with a blank line. Either way the tokenizer's own
first token (BOS) comes first if the tokenizer puts one there, and the end token closes the
response.
"""

from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import NamedTuple

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from alignment.data.conversations import PromptAndResponses, Turn, Turns
from alignment.data.special_tokens import SpecialTokens, special_tokens

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

    Raises:
        ValueError: if history has a system message and there is a system prompt as well, or the
            chat template takes no such conversation.
    """
    special = special_tokens(tokenizer)
    turns = _turns(prompt, system_prompt, history)
    return special.unmask(_rendered(tokenizer, special, turns, is_prompt=True))


def prompt_token_ids(
    tokenizer: PreTrainedTokenizerBase, prompt: str, system_prompt: str | None
) -> NDArray[np.int32]:
    """Return the token ids of a prompt, ready for the response to follow."""
    special = special_tokens(tokenizer)
    turns = _turns(prompt, system_prompt, ())
    return special.encode([_rendered(tokenizer, special, turns, is_prompt=True)])[0]


def end_token_ids(model: str) -> list[int]:
    """Return the ids that end a response: of the generation config, else of the model config.

    Without any, only its length ends a response.
    """
    try:
        ids = GenerationConfig.from_pretrained(model).eos_token_id
    except OSError:  # there is no generation_config.json
        ids = None
    if ids is None:
        ids = AutoConfig.from_pretrained(model).eos_token_id
    if ids is None:
        return []
    return [ids] if isinstance(ids, int) else list(ids)


def end_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that ends a response: what the chat template puts behind one.

    That is the end of a turn, which need not be the end of a text: several models have a token for
    each. Without a template, or with one that ends a turn in plain text, it is the tokenizer's EOS.

    Raises:
        ValueError: if there is neither.
    """
    special = special_tokens(tokenizer)
    for token_id in special.encode([_after_a_response(tokenizer)])[0].tolist():
        if token_id in special.ids:
            return int(token_id)
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "the model's tokenizer has no end token: its chat template ends a turn in plain text "
            "and it names no eos_token; set eos_token in the model's tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


def conversation_tokens(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[PromptAndResponses],
    system_prompt: str | None,
) -> list[ConversationTokens]:
    """Tokenize rows, so that prompt and response joined are the conversation's tokens.

    The response is what the chat template adds to the prompt when it renders the whole
    conversation: white space, an empty thinking block or the name of a channel included, up to the
    end token. It is tokenized behind its prompt and cut off, since some tokenizers write the first
    word of a text differently. Where a token would span the border there is no such cut; then the
    response is tokenized alone, as the policy, which never sees half a token, would write it.

    Args:
        system_prompt: opens every conversation, if given.

    Returns:
        One pair per response, those of a row adjacent, in order.

    Raises:
        ValueError: naming a row that the model cannot read, or whose prompt the template renders
            differently once there is a response.
    """
    special, end = special_tokens(tokenizer), end_token_id(tokenizer)
    tail = _after_a_response(tokenizer)
    is_ended = end in special.encode([tail])[0]
    prompts: list[str] = []
    wholes: list[str] = []
    for number, row in enumerate(rows, start=1):
        try:
            for prompt, whole in _rendered_row(tokenizer, special, row, system_prompt):
                prompts.append(prompt)
                wholes.append(whole if is_ended else whole.removesuffix(tail))
        except ValueError as error:
            raise ValueError(f"row {number} of the data: {error}") from error
    pairs = []
    encoded = zip(special.encode(prompts), special.encode(wholes), strict=True)
    for index, (prompt_ids, whole_ids) in enumerate(encoded):
        if np.array_equal(whole_ids[: len(prompt_ids)], prompt_ids):
            response_ids = whole_ids[len(prompt_ids) :]
        else:
            response_ids = special.encode([wholes[index][len(prompts[index]) :]])[0]
        if is_ended:  # the template may write more behind the end token
            response_ids = response_ids[: np.flatnonzero(response_ids == end)[-1]]
        pairs.append(ConversationTokens(prompt_ids, np.append(response_ids, np.int32(end))))
    return pairs


def _rendered_row(
    tokenizer: PreTrainedTokenizerBase,
    special: SpecialTokens,
    row: PromptAndResponses,
    system_prompt: str | None,
) -> Iterator[tuple[str, str]]:
    """Yield the masked text of the prompt and of the whole conversation, for each response."""
    turns = _turns(row.prompt, system_prompt, row.history)
    prompt = _rendered(tokenizer, special, turns, is_prompt=True)
    for response in row.responses:
        answered = (*turns, Turn("assistant", response))
        whole = _rendered(tokenizer, special, answered, is_prompt=False)
        if not whole.startswith(prompt):
            same = sum(
                1
                for _ in takewhile(
                    lambda pair: pair[0] == pair[1], zip(prompt, whole, strict=False)
                )
            )
            shown = special.unmask(prompt[same:])
            raise ValueError(
                f"with a response the model's chat template does not write {shown[:60]!r}, which "
                "it writes at the end of the prompt, so the policy could never produce this "
                "response; write the response as the template expects it (a thinking block, for "
                "example), or change the template of the model"
            )
        yield prompt, whole


def _turns(prompt: str, system_prompt: str | None, history: Turns) -> Turns:
    """Return the conversation up to the response."""
    if system_prompt is not None and any(turn.role == "system" for turn in history):
        raise ValueError(
            "has a system message, and data.system_prompt is set as well; remove one of the two"
        )
    opening = () if system_prompt is None else (Turn("system", system_prompt),)
    return (*opening, *history, Turn("user", prompt))


def _rendered(
    tokenizer: PreTrainedTokenizerBase, special: SpecialTokens, turns: Turns, *, is_prompt: bool
) -> str:
    """Return a conversation as masked text; a prompt is followed by what opens a response."""
    masked = [Turn(role, special.mask(text)) for role, text in turns]
    if tokenizer.chat_template is None:
        *before, (role, last) = masked
        text = _first_token(tokenizer) + "".join(
            f"{text}\n" if role == "user" else f"{text}\n\n" for role, text in before
        )
        return text + (last if role == "assistant" else f"{last}\n")
    messages = [{"role": turn.role, "content": turn.text} for turn in masked]
    try:
        rendered = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=is_prompt
        )
    except TemplateError as error:
        roles = ", ".join(turn.role for turn in turns)
        raise ValueError(
            f"the model's chat template does not take a conversation of {roles} ({error}); "
            "change the row, or choose a model whose template takes it"
        ) from error
    return str(rendered)


def _after_a_response(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the chat template writes behind a response; nothing without a template."""
    if tokenizer.chat_template is None:
        return ""
    turns = (Turn("user", PROBE), Turn("assistant", PROBE))
    rendered = _rendered(tokenizer, special_tokens(tokenizer), turns, is_prompt=False)
    return rendered.rpartition(PROBE)[2]


def _first_token(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the BOS token as text if this tokenizer opens every text with it, else nothing."""
    opens = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return str(tokenizer.bos_token) if opens else ""
