"""Metrics of texts in [0, 1]: their diversity, and their similarity to other texts.

Words are maximal runs of letters and digits, with apostrophes inside, in lower case, so punctuation
changes no metric but chrF. A metric that is undefined, such as the diversity of no texts, is None.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from alignment.intervals import wilson_interval

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
MAX_ORDER = 4  # of the n-grams of distinct-n
MAX_SELF_BLEU_TEXTS = 128  # its time grows with the square: 3 s of one core for 128 texts


class MatchCount(NamedTuple):
    """The number of texts that have a property."""

    num_matching: int
    num_texts: int
    """At least one."""

    @property
    def fraction(self) -> float:
        """The fraction of the texts that have the property."""
        return self.num_matching / self.num_texts

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the fraction."""
        return wilson_interval(self.num_matching, self.num_texts)


def words(text: str) -> list[str]:
    """Split a text into words without regard to case and punctuation."""
    return WORD.findall(text.casefold())


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct n-grams of words over all n-grams, counted over all the texts together.

    It decreases with the length and the number of the texts, so compare it only between responses
    to the same prompts.

    Args:
        n: words in an n-gram, at least 1.

    Returns:
        A value in (0, 1], or None if no text has n words.

    References:
        Li et al. 2016, arXiv:1510.03055.
    """
    split = map(words, texts)
    counts = Counter(tuple(each[i : i + n]) for each in split for i in range(len(each) - n + 1))
    return len(counts) / counts.total() if counts else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU-4 of each text with all the others as references: 1 if all are equal.

    A low value means varied texts. An order above 1 without a match counts 0.1 matches (sacreBLEU's
    smoothing "floor"); a text without any matching word scores 0, and a text of fewer than four
    words is scored on the orders that it has. Of more than MAX_SELF_BLEU_TEXTS texts, so many at
    even distances are compared.

    Returns:
        A value in [0, 1], or None if fewer than two texts have words.

    References:
        Papineni et al. 2002, BLEU; Zhu et al. 2018 (Texygen), arXiv:1802.01886, self-BLEU.
    """
    tokens = [" ".join(split) for split in map(words, texts) if split]
    if len(tokens) < 2:
        return None
    count = min(len(tokens), MAX_SELF_BLEU_TEXTS)
    tokens = [tokens[index * len(tokens) // count] for index in range(count)]
    bleu = BLEU(tokenize="none", smooth_method="floor", smooth_value=0.1, effective_order=True)
    scores = [
        bleu.sentence_score(text, tokens[:index] + tokens[index + 1 :]).score
        for index, text in enumerate(tokens)
    ]
    return float(sum(scores) / len(scores)) / 100.0


def chrf(text: str, reference: str) -> float:
    """Similarity of a text to a reference: sacreBLEU's chrF2, divided by 100.

    It compares character n-grams of order 1 to 6. White space is ignored, case and punctuation
    count.

    Returns:
        A value in [0, 1]: 1 if both are equal, 0 if either is empty.

    References:
        Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    return float(CHRF().sentence_score(text, [reference]).score) / 100.0


def mean_chrf(texts: Sequence[str], references: Sequence[str]) -> float | None:
    """Mean chrF of each text to its own reference; None for no texts."""
    scores = [chrf(text, reference) for text, reference in zip(texts, references, strict=True)]
    return sum(scores) / len(scores) if scores else None


def matching_count(texts: Sequence[str], pattern: re.Pattern[str]) -> MatchCount | None:
    """The texts in which the pattern occurs at least once; None for no texts."""
    return _share([pattern.search(text) is not None for text in texts])


def copied_count(prompts: Sequence[str], responses: Sequence[str]) -> MatchCount | None:
    """The responses whose words are exactly those of the prompt; None for no texts."""
    pairs = zip(prompts, responses, strict=True)
    return _share([words(prompt) == words(response) for prompt, response in pairs])


def _share(matches: list[bool]) -> MatchCount | None:
    return MatchCount(sum(matches), len(matches)) if matches else None
