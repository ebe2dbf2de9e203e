"""Counts rows that come twice, exactly or but for case, white space and Unicode form."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from alignment.data.conversations import PromptAndResponses
from alignment.data.splits import prompt_key


class Duplicates(NamedTuple):
    """Numbers of rows that repeat something of an earlier row. A row is counted once."""

    equal_rows: int
    """Rows equal to an earlier row in prompt, history and responses."""
    equal_prompts: int
    """Further rows with the prompt and history of an earlier row."""
    similar_prompts: int
    """Further rows whose prompt differs from an earlier one only in case, white space or Unicode
    form."""

    def remarks(self) -> Iterator[str]:
        """Yield a sentence for each kind of which there are some."""
        texts = {
            "equal to an earlier row": self.equal_rows,
            "with the prompt of an earlier row and another response": self.equal_prompts,
            "with the prompt of an earlier row in other case, white space or Unicode form": (
                self.similar_prompts
            ),
        }
        yield from (f"{count:,} {what}" for what, count in texts.items() if count)


def count_duplicates(rows: Sequence[PromptAndResponses]) -> Duplicates:
    """Count the rows that repeat an earlier row, or its prompt."""
    whole: set[object] = set()
    prompts: set[object] = set()
    keys: set[str] = set()
    counts = [0, 0, 0]
    for row in rows:
        prompt, key = (row.prompt, row.history), prompt_key(row.prompt, row.history)
        text = (*prompt, row.responses)
        seen = (text in whole, prompt in prompts, key in keys)
        if any(seen):
            counts[seen.index(True)] += 1
        whole.add(text)
        prompts.add(prompt)
        keys.add(key)
    return Duplicates(*counts)
