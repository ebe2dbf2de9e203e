"""Ready-made reward functions of (prompt, response, expert_response)."""

FINAL_ANSWER = "####"
"""Precedes the final answer in GSM8K and data sets of its form."""


def exact_match(prompt: str, response: str, expert_response: str) -> float:
    """Reward 1 for the expert's answer and 0 for any other.

    The answer is what follows the last "####" where there is one, else the whole text, without
    white space around it.

    Args:
        prompt: not looked at.
        expert_response: of the expert, to the same prompt.

    Returns:
        1.0 or 0.0.

    References:
        Cobbe et al. 2021 (GSM8K), arXiv:2110.14168, for the mark.
    """
    del prompt
    return float(_answer(response) == _answer(expert_response))


def _answer(text: str) -> str:
    return text.rpartition(FINAL_ANSWER)[2].strip()
