"""Records of the objectives that train a policy on preferences without a likelihood."""

from typing import NamedTuple


class DirectObjective(NamedTuple):
    """An objective of the policy that is not a likelihood, described as likelihoods are."""

    name: str
    formula: str
    """The loss of one label, with l, z and beta of LEGEND."""
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
        behavior="moves every difference of log-ratios to a fixed target",
        choose_when=(
            "annotators always agree, where DPO has no minimum, or preferences are not transitive"
        ),
        avoid_when="it matters how much better a response is: only the probability to win counts",
        takes=("pairs", "ties"),
        parameters="",
        caveat=(
            "log-ratios are sums over tokens, as in the paper; beta has another scale in libraries "
            "that divide them by the length of the response"
        ),
    ),
    DirectObjective(
        name="kahneman_tversky",
        formula=(
            "desirable_weight sigmoid(beta (z - l)) if desirable, "
            "else undesirable_weight sigmoid(beta (l - z))"
        ),
        behavior="moves each response to its side of z, with small gradients far from z",
        choose_when="responses were labelled one by one, or many labels are wrong",
        avoid_when=(
            "the data are reliable pairs: it ignores that both responses have the same prompt"
        ),
        takes=("single labels", "pairs"),
        parameters="both weights: at least 0, with about the same weight times number of responses",
        caveat="in a pair or ranking the best response is desirable and all others are undesirable",
    ),
    DirectObjective(
        name="self_play",
        formula=("log(1 + e^(beta (l_j - l_i))), i the demonstration, j the policy's response"),
        behavior="a round moves log policy by 1 / beta times its difference from log expert",
        choose_when="there are only demonstrations, and you want to train only the policy",
        avoid_when=(
            "beta is below 1/2 and every round is trained to its optimum: the policy overshoots"
        ),
        takes=("demonstrations",),
        parameters="",
        caveat="the reference is the policy at the start of the epoch, so an epoch is a round",
    ),
)
"""The values of preferences.objective that are not likelihoods."""
KNOWN_AS = {
    "bradley_terry": "DPO",
    "rao_kupper": "DPO-RK",
    "davidson": "DPO-D",
    "identity": "IPO",
    "kahneman_tversky": "KTO",
    "self_play": "SPIN",
}
"""Names of these objectives in the literature, if a policy is trained by them."""
LEGEND = (
    "Response i was preferred to j. d = r_i - r_j, where r is the score of a reward model, the "
    "logit of the discriminator, or the implicit reward of the policy: beta l if "
    "`preferences.divergence` is `reverse_kl`, with l = log(policy / reference). z is the mean l "
    "of responses to mismatched prompts, or 0 if that is negative. `plackett_luce` takes a ranking "
    "whole, `kahneman_tversky` takes it as single labels, the others take its pairs. "
    "`parameters.label_smoothing` makes DPO conservative DPO."
)
