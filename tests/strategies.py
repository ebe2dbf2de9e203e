"""Hypothesis strategies: random distributions, policy tables, flat batches and trajectories.

Importing this module also sets how hard hypothesis tries: few examples, since most tests draw a
whole table of numbers in each, and no deadline, since a busy machine is no failure.
"""

import torch
from hypothesis import settings
from hypothesis import strategies as st

from alignment.mdp.trajectories import FinishReason, PolicyVersion
from alignment.studies.response_table import enumerate_responses

settings.register_profile("irlign", max_examples=25, deadline=None)
settings.load_profile("irlign")

TABLE = enumerate_responses(num_tokens=3, end_token=0, max_response_tokens=3)
"""15 responses over 7 prefixes: small enough for all pairs of responses."""


def floats64(size, low=-3.0, high=3.0):
    values = st.floats(low, high, allow_subnormal=False)
    return st.lists(values, min_size=size, max_size=size).map(
        lambda numbers: torch.tensor(numbers, dtype=torch.float64)
    )


def distributions(size, sharpness=3.0):
    return floats64(size, -sharpness, sharpness).map(lambda logits: logits.softmax(0))


def policy_tables(sharpness=1.5):
    """Logits of a tabular policy over TABLE."""
    rows = len(TABLE.prefixes)
    return floats64(rows * 3, -sharpness, sharpness).map(lambda logits: logits.reshape(rows, 3))


@st.composite
def flat_batches(draw, max_sequences=6, max_actions=4):
    """(sequence_index, two sets of log-probabilities), at least one action a sequence."""
    lengths = draw(st.lists(st.integers(1, max_actions), min_size=1, max_size=max_sequences))
    index = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    logprobs = draw(floats64(len(index), -4.0, -0.01))
    others = logprobs + draw(floats64(len(index), -1.0, 1.0))
    return index, logprobs, others


@st.composite
def trajectory_specs(draw, max_size=5):
    """Arguments of pack for several trajectories.

    Packing is left to the test: beartype picks items to check by the random module, which
    hypothesis forbids inside a strategy.
    """
    tokens = st.lists(st.integers(0, 50), min_size=1, max_size=5)
    specs = []
    for number in range(draw(st.integers(0, max_size))):
        response = draw(tokens)
        logprobs = st.floats(-5, 0, width=32)
        specs.append(
            {
                "prompt": draw(tokens),
                "response": response,
                "prompt_id": number,
                "behavior_logprobs": [draw(logprobs) for _ in response],
                "finish_reason": draw(st.sampled_from(FinishReason)),
                "policy_version": PolicyVersion(draw(st.integers(0, 2)), draw(st.integers(0, 9))),
            }
        )
    return specs
