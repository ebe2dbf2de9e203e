"""User text in which the names of special tokens are plain text.

A tokenizer reads "<|im_end|>" as the end of a turn wherever it stands. In a prompt or a response
that somebody wrote it is text: as a token it would end the response early, or let a prompt open a
turn of its own. `mask` replaces such names by placeholders before a chat template is rendered, so
that every special token that then stands in the rendered text is the template's, and `encode`
turns the placeholders into text tokens.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

OPEN, CLOSE = "\ue0f0", "\ue0f1"
"""Private-use characters around a placeholder. Text that contains one is refused."""


class SpecialTokens:
    """The special tokens of one tokenizer, and how to write their names as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.items()
        self.ids = {i for i, token in added if token.special} | set(tokenizer.all_special_ids)
        names = {token.content for _, token in added if token.special}
        self._names = sorted(names | set(tokenizer.all_special_tokens), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._names)) or r"(?!)")
        self._renamed: Tokenizer | None = None

    def mask(self, text: str) -> str:
        """Return text in which placeholders stand for the names of special tokens.

        Raises:
            ValueError: if text contains a character that marks placeholders.
        """
        for mark in (OPEN, CLOSE):
            if mark in text:
                raise ValueError(f"contains the private-use character U+{ord(mark):04X}; remove it")
        return self._pattern.sub(lambda name: f"{OPEN}{self._names.index(name[0])}{CLOSE}", text)

    def unmask(self, text: str) -> str:
        """Return masked text with the names written out."""
        return re.sub(f"{OPEN}(\\d+){CLOSE}", lambda number: self._names[int(number[1])], text)

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """Return the token ids of masked texts, nothing added.

        Raises:
            ValueError: if a text has placeholders and the tokenizer has no fast implementation.
        """
        encoded = (
            self._tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []
        )
        ids = [np.asarray(each, np.int32) for each in encoded]
        for row in (row for row, text in enumerate(texts) if OPEN in text):
            decorated = self._pattern.sub(lambda name: _decorated(name[0]), texts[row])
            exact = self._backend().encode(self.unmask(decorated), add_special_tokens=False).ids
            ids[row] = np.asarray(exact, np.int32)
        return ids

    def _backend(self) -> Tokenizer:
        """Return a copy of the tokenizer whose special tokens have names that no text contains."""
        if self._renamed is None:
            if not self._tokenizer.is_fast:
                raise ValueError(
                    "contains the name of a special token, which this model's tokenizer (one "
                    "without a fast implementation) cannot read as text; change the row"
                )
            names = {name: _decorated(name) for name in self._names}
            state = json.loads(self._tokenizer.backend_tokenizer.to_str())
            self._renamed = Tokenizer.from_str(json.dumps(_replaced(state, names)))
            self._renamed.no_padding()
            self._renamed.no_truncation()
        return self._renamed


@lru_cache(maxsize=4)
def special_tokens(tokenizer: PreTrainedTokenizerBase) -> SpecialTokens:
    """Return the special tokens of a tokenizer; equal calls share one."""
    return SpecialTokens(tokenizer)


def _decorated(name: str) -> str:
    return f"{OPEN}{name}{CLOSE}"


def _replaced(value: Any, names: dict[str, str]) -> Any:  # noqa: ANN401  # JSON
    """Replace strings that are names, as values and as keys, at every depth."""
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, list):
        return [_replaced(each, names) for each in value]
    if isinstance(value, dict):
        return {names.get(key, key): _replaced(each, names) for key, each in value.items()}
    return value
