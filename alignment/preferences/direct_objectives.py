"""The objectives that learn a policy from preferences directly, as records."""

from typing import NamedTuple


class DirectObjective(NamedTuple):
    """An objective of the policy that is no likelihood, in the words of one that is."""

    name: str
    formula: str
    """The loss of one answer, with l, z and beta as LEGEND has them."""
    behavior: str
    choose_when: str
    avoid_when: str
    takes: tuple[str, ...]
    parameters: str
    caveat: str


DIRECT = (
    DirectObjective(
        name="identity",
        formula="(l_i - l_j - 1 / (2 beta))^2; a tie (l_i - l_j)^2",
        behavior="moves every difference of log-ratios towards one target, and no further",
        choose_when="all annotators agree, where DPO has no minimum, or no scores explain them",
        avoid_when="it matters how much better a response is: only chances to win are raised",
        takes=("pairs", "ties"),
        parameters="",
        caveat=(
            "log-ratios are sums over tokens, as in the paper; libraries that divide them by the "
            "response's length mean another beta"
        ),
    ),
    DirectObjective(
        name="kahneman_tversky",
        formula=(
            "desirable_weight sigmoid(beta (z - l)) if desirable, "
            "else undesirable_weight sigmoid(beta (l - z))"
        ),
        behavior="moves each response to its side of z; far from it, on either side, hardly at all",
        choose_when="responses were judged one by one, or many verdicts are wrong",
        avoid_when="answers are clean pairs: that both stand under one prompt is not used",
        takes=("verdicts", "pairs"),
        parameters="both weights: at least 0, such that weight times number is about the same",
        caveat="of a pair or ranking the best response is desirable, and all others undesirable",
    ),
    DirectObjective(
        name="self_play",
        formula="log(1 + e^(beta (l_j - l_i))), i the demonstration, j the policy's response",
        behavior="a whole round moves log policy by 1 / beta times its distance from log expert",
        choose_when="there are demonstrations only, and nothing shall be trained but the policy",
        avoid_when="beta is below 1/2 and rounds are run to their end: the policy then overshoots",
        takes=("demonstrations",),
        parameters="",
        caveat="the reference is the policy of an epoch ago, so an epoch is a round",
    ),
)
"""What preferences.objective can be beside the likelihoods of alignment.preferences."""


KNOWN_AS = {
    "bradley_terry": "DPO",
    "rao_kupper": "DPO-RK",
    "davidson": "DPO-D",
    "identity": "IPO",
    "kahneman_tversky": "KTO",
    "self_play": "SPIN",
}
"""Names that these objectives have elsewhere, when it is a policy that learns by them."""


LEGEND = (
    "Response i was preferred to j. d = r_i - r_j, where r is a reward model's score, the "
    "discriminator's logit, or the reward that the policy implies: beta l if "
    "`preferences.divergence` is `reverse_kl`, with l = log(policy / reference). z is the mean l "
    "of responses under other prompts than theirs, or 0 if that is less. A ranking is taken whole "
    "by `plackett_luce`, as verdicts by `kahneman_tversky`, and pair by pair by the others. "
    "`parameters.label_smoothing` makes DPO conservative DPO."
)
