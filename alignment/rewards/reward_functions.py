"""Ready-made reward functions of (prompt, response, expert_response)."""

FINAL_ANSWER = "####"
"""The mark before the final answer in GSM8K and data sets of the same form."""


def exact_match(prompt: str, response: str, expert_response: str) -> float:
    """Return 1.0 if the final answer is the expert's, else 0.0.

    The final answer is the text after the last "####", or the whole text if there is none, without
    surrounding white space.

    Args:
        prompt: not used.
        expert_response: the expert's response to the same prompt.

    References:
        Cobbe et al. 2021 (GSM8K), arXiv:2110.14168, for the mark.
    """
    del prompt
    return float(_answer(response) == _answer(expert_response))


def _answer(text: str) -> str:
    return text.rpartition(FINAL_ANSWER)[2].strip()
