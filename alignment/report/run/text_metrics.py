"""How varied texts are, and how close they come to other texts. Figures between 0 and 1.

Words are maximal runs of letters and digits, with apostrophes inside, without regard to case; so
punctuation changes no figure here but chrF. A figure that is undefined, such as the diversity of no
texts, is None, never 0.
"""

import re
from collections import Counter
from collections.abc import Sequence
from math import exp, log, sqrt
from typing import NamedTuple

WORD = re.compile(r"\w+(?:['\u2019]\w+)*")
MAX_ORDER = 4  # the n-grams of BLEU and of distinct-n
UNMATCHED = 0.1  # matches put in the place of none, so that one missing order is not a score of 0
CHRF_ORDER = 6
CHRF_BETA = 2.0  # recall counts as much as beta squared precisions
NORMAL_QUANTILE = 1.959963984540054  # of 0.975: two-sided 95 %

Ngrams = Counter[tuple[str, ...]]


class Share(NamedTuple):
    """How many of some texts have a property."""

    num_matching: int
    num_texts: int
    """At least one."""

    @property
    def fraction(self) -> float:
        """The share of the texts that have the property."""
        return self.num_matching / self.num_texts

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share.

        It lies inside [0, 1] and stays honest for few texts and for shares near 0 and 1.

        References:
            Wilson 1927, "Probable inference, the law of succession, and statistical inference".
        """
        n, p, z = self.num_texts, self.fraction, NORMAL_QUANTILE
        center = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        low = 0.0 if self.num_matching == 0 else center - half  # exact, where rounding is not
        high = 1.0 if self.num_matching == n else center + half
        return low, high


def words(text: str) -> list[str]:
    """Split a text into words without regard to case and punctuation."""
    return WORD.findall(text.casefold())


def distinct_n(texts: Sequence[str], n: int) -> float | None:
    """Distinct n-grams of words over all n-grams, counted over all the texts together.

    It falls as texts grow longer or more numerous, so compare it only between answers to the same
    prompts.

    Args:
        n: words in an n-gram, at least 1.

    Returns:
        A value in (0, 1], or None if no text has n words.

    References:
        Li et al. 2016, arXiv:1510.03055.
    """
    counts = Counter(gram for text in texts for gram in _ngrams(words(text), n).elements())
    return len(counts) / counts.total() if counts else None


def self_bleu(texts: Sequence[str]) -> float | None:
    """Mean BLEU-4 of each text with all the others as references: 1 if all are the same.

    Low is varied. Where no n-gram of some order above 1 matches, 0.1 is put in the place of the 0
    matches, as "method 1" of Chen and Cherry does with NLTK's constant; no matching word at all is
    a score of 0. A text of fewer than four words is scored on the orders that it has.

    Args:
        texts: those with no word in them are left out.

    Returns:
        A value in [0, 1], or None if fewer than two texts have a word.

    References:
        Papineni et al. 2002, BLEU; Zhu et al. 2018 (Texygen), arXiv:1802.01886, self-BLEU; Chen and
        Cherry 2014, "A systematic comparison of smoothing techniques for sentence-level BLEU".
    """
    tokens = [split for split in map(words, texts) if split]
    if len(tokens) < 2:
        return None
    matches = [_matches_with_others(tokens, order) for order in range(1, MAX_ORDER + 1)]
    lengths = Counter(map(len, tokens))
    scores = []
    for index, text in enumerate(tokens):
        orders = range(1, min(MAX_ORDER, len(text)) + 1)
        matched = [matches[order - 1][index] for order in orders]
        possible = [len(text) - order + 1 for order in orders]
        scores.append(_bleu(matched, possible, len(text), _closest_other(lengths, len(text))))
    return sum(scores) / len(scores)


def chrf(text: str, reference: str) -> float:
    """Similarity of a text to a reference: the F2 score of shared character 6-grams and shorter.

    Precision and recall are averaged over the orders that both texts have. White space is left
    out, case and punctuation count. The value is sacreBLEU's sentence chrF2 divided by 100.

    Returns:
        A value in [0, 1]; 1 if both are the same, 0 if either is empty.

    References:
        Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation".
    """
    characters, expected = "".join(text.split()), "".join(reference.split())
    precisions, recalls = [], []
    for n in range(1, min(CHRF_ORDER, len(characters), len(expected)) + 1):
        ours, theirs = _ngrams(characters, n), _ngrams(expected, n)
        matched = (ours & theirs).total()
        precisions.append(matched / ours.total())
        recalls.append(matched / theirs.total())
    precision, recall = sum(precisions), sum(recalls)  # sums will do: F is of degree 1
    if precision + recall == 0:
        return 0.0
    weight = CHRF_BETA**2
    score = (1 + weight) * precision * recall / (weight * precision + recall)
    return score / len(precisions)


def mean_chrf(texts: Sequence[str], references: Sequence[str]) -> float | None:
    """Mean chrF of each text to its own reference; None for no texts."""
    scores = [chrf(text, reference) for text, reference in zip(texts, references, strict=True)]
    return sum(scores) / len(scores) if scores else None


def matching_share(texts: Sequence[str], pattern: re.Pattern[str]) -> Share | None:
    """Share of texts in which the pattern occurs at least once; None for no texts."""
    return _share([pattern.search(text) is not None for text in texts])


def copied_share(prompts: Sequence[str], responses: Sequence[str]) -> Share | None:
    """Share of responses whose words are the prompt's, all of them, in order; None for no texts."""
    pairs = zip(prompts, responses, strict=True)
    return _share([words(prompt) == words(response) for prompt, response in pairs])


def _share(matches: list[bool]) -> Share | None:
    return Share(sum(matches), len(matches)) if matches else None


def _ngrams(sequence: Sequence[str], n: int) -> Ngrams:
    return Counter(tuple(sequence[i : i + n]) for i in range(len(sequence) - n + 1))


def _matches_with_others(tokens: list[list[str]], n: int) -> list[int]:
    """Count the clipped n-gram matches of each text with all the others, in linear time.

    An n-gram counts at most as often as in the reference that has the most of it. The two highest
    counts over all texts tell that for every text.

    Args:
        tokens: the words of each text.

    Returns:
        One count a text.
    """
    counts = [_ngrams(text, n) for text in tokens]
    highest: Ngrams = Counter()
    second: Ngrams = Counter()
    for grams in counts:
        for gram, count in grams.items():
            second[gram] = max(second[gram], min(count, highest[gram]))
            highest[gram] = max(highest[gram], count)
    # Who has the highest count meets the second as the highest of the others (equal on a tie).
    return [
        sum(
            min(count, second[gram] if count == highest[gram] else highest[gram])
            for gram, count in grams.items()
        )
        for grams in counts
    ]


def _closest_other(lengths: Counter[int], length: int) -> int:
    """Length of the other text that is closest in length, the shorter one of two as close."""
    others = [other for other, count in lengths.items() if other != length or count > 1]
    return min(others, key=lambda other: (abs(other - length), other))


def _bleu(matched: list[int], possible: list[int], length: int, reference_length: int) -> float:
    if matched[0] == 0:
        return 0.0
    pairs = zip(matched, possible, strict=True)
    mean_log = sum(log(max(hits, UNMATCHED) / total) for hits, total in pairs) / len(matched)
    return exp(mean_log + min(0.0, 1.0 - reference_length / length))
