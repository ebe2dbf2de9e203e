"""Annotators who like every c and dislike every d, on the words of tests/fakes/tiny_job.py."""

import random

from transformers import AutoTokenizer

from alignment.data.comparisons import Comparison
from alignment.data.tokenized import TokenizedComparisons


def liking(response):
    return response.count("c") - response.count("d")


def comparison(number, rng, *, size=2, with_ties=False):
    """A row of responses with as many likings, or with fewer if ties are allowed."""
    responses = {}
    while len(responses) < size:
        response = " ".join(rng.choices("abcd", k=rng.randint(1, 6)))
        key = response if with_ties else liking(response)
        responses[key] = response
    ordered = sorted(responses.values(), key=liking, reverse=True)
    levels = sorted({liking(each) for each in ordered}, reverse=True)
    return Comparison(
        f"a {number}",
        tuple(ordered),
        tuple(levels.index(liking(each)) for each in ordered),
        strength=float(liking(ordered[0]) - liking(ordered[1])),
        domain="even" if number % 2 == 0 else "odd",
    )


def tiny_comparisons(num_rows, *, sizes=(2,), with_ties=False, seed=0):
    rng = random.Random(seed)
    return [
        comparison(number, rng, size=sizes[number % len(sizes)], with_ties=with_ties)
        for number in range(num_rows)
    ]


def tokenized(rows, model, *, seed=0):
    return TokenizedComparisons.tokenize(
        rows,
        AutoTokenizer.from_pretrained(model),
        system_prompt=None,
        held_out_fraction=0.3,
        max_prompt_tokens=8,
        max_response_tokens=8,
        seed=seed,
    )
