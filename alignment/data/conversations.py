"""The turns of a conversation, parsed from messages or transcripts."""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
}
"""The role of each name that a message may have for its speaker."""
MESSAGE_KEYS = {"role", "content", "from", "value"}
"""The keys of a message that are read."""
SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
"""The beginning of a turn in a transcript of Anthropic's HH-RLHF."""


class Turn(NamedTuple):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    text: str


Turns = tuple[Turn, ...]


@runtime_checkable
class PromptAndResponses(Protocol):
    """A prompt with one response, as a demonstration has it, or several, as a comparison."""

    @property
    def prompt(self) -> str:
        """The user's last message."""
        ...

    @property
    def responses(self) -> tuple[str, ...]:
        """The responses of the assistant."""
        ...

    @property
    def history(self) -> Turns:
        """The turns before the prompt."""
        ...


class ConversationPrompt(NamedTuple):
    """A conversation up to the response."""

    text: str
    """The last message, from the user."""
    history: Turns
    """All messages before it."""


def turns_of(value: object, key: str) -> Turns:
    """Return the turns of one message or a list of messages.

    A message is an object with role and content (OpenAI, TRL) or from and value (ShareGPT).

    Raises:
        ValueError: if a message is malformed, or there is none.
    """
    messages = value if isinstance(value, list) else [value]
    if not messages:
        raise ValueError(f'"{key}" holds no messages; fill it, or remove the row')
    return tuple(_turn(message, key) for message in messages)


def transcript_turns(text: str, key: str) -> Turns:
    r"""Return the turns of a text such as "\n\nHuman: Hi\n\nAssistant: Hello".

    Raises:
        ValueError: if the text does not begin with a speaker.
    """
    opening, *parts = SPEAKER.split(text)
    if opening.strip() or not parts:
        raise ValueError(
            f'the row has no prompt, and "{key}" is not a transcript that begins with "Human:"; '
            'add a "prompt", or write messages'
        )
    speakers, texts = parts[::2], parts[1::2]
    return tuple(
        Turn(ROLES["human" if speaker == "Human" else "assistant"], said)
        for speaker, said in zip(speakers, texts, strict=True)
    )


def split_prompt(turns: Sequence[Turn]) -> ConversationPrompt:
    """Split the turns before a response into prompt and history.

    Raises:
        ValueError: if the last turn is not the user's, or is empty.
    """
    if not turns or turns[-1].role != "user":
        last = f"the {turns[-1].role}'s" if turns else "nothing"
        raise ValueError(
            f"the turn before the response is {last}; it must be a message of the user"
        )
    if not turns[-1].text.strip():
        raise ValueError("the prompt is empty; fill it, or remove the row")
    return ConversationPrompt(turns[-1].text, tuple(turns[:-1]))


def _turn(message: object, key: str) -> Turn:
    """Check one message and return it as a turn."""
    if not isinstance(message, dict):
        kind = type(message).__name__
        raise ValueError(
            f'"{key}" holds {kind} where a message should be; '
            'write {"role": "user", "content": "..."}'
        )
    role_key, text_key = ("role", "content") if "role" in message else ("from", "value")
    role, text = message.get(role_key), message.get(text_key)
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(
            f'a message of "{key}" has "{role_key}" {role!r}; it must be one of {", ".join(ROLES)}'
        )
    if not isinstance(text, str):
        kind = type(text).__name__
        raise ValueError(f'a message of "{key}" has "{text_key}" {kind}, not a string')
    return Turn(ROLES[role], text)
