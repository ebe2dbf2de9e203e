"""Compare rewards learned from demonstrations alone with the closed form and with length.

    python -m deploy.examples.reward_models.demonstration_rewards --out demonstration_rewards

All responses are enumerated. A response has up to five symbols out of four: 1,365 responses. The
initial policy pi_0 is a random bigram chain. The golden reward R has a score for each symbol and
for each pair of symbols with one symbol between them, which no chain can express. The expert is
p ~ pi_0 e^R or, with a style, p ~ pi_0 e^(R + S), where S is a random score of such pairs that is
independent of R. pi_SFT is a chain fitted to N demonstrations, for a few steps or to convergence.
Each contrast is N pairs: one response of each side to each of N further prompts, whose
demonstrations pi_SFT was not fitted to, as in irlign reward-model contrast. init-sft is also
measured with 16 N pairs, since both of its policies can be sampled without limit.

A learned reward is linear in features and maximizes the Bradley-Terry likelihood with a ridge
penalty, which is selected on a fifth of the pairs. Small features are the counts of the symbols;
large features also hold the counts of neighbors, of pairs with one symbol between, first and last
symbol, so that they express the optimum of every contrast exactly. The length reward is learned
from init-demonstrations. Rewards are measured on responses of pi_SFT: by rank correlation with R,
and by R of the best of n.

Results of 24 worlds, best of 16, eight cases. A learned init-sft reward was never better than the
closed form: with N pairs and large features it was worse in five cases, with 16 N pairs in one, by
0.09. init-demonstrations with large features was never worse than the closed form, and better by
0.10 and 0.19 standard deviations where the expert had no style and N was 512. sft-demonstrations
with large features was worse in all four cases without a style, most where pi_SFT had converged.
With a style, the closed form and init-demonstrations lost 38 to 73% of their gain, and neither was
significantly better.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import spearmanr, t
from torch import Tensor

from alignment.rewards.best_of_n import best_of_chances
from alignment.studies.response_table import enumerate_responses, tabular_response_logprobs
from deploy.examples.reward_models.demonstration_rewards_tables import (
    draw_best_of,
    print_tables,
)

NUM_SYMBOLS, MAX_SYMBOLS, END = 4, 5, 0
TABLE = enumerate_responses(NUM_SYMBOLS + 1, END, MAX_SYMBOLS)
LAST = torch.tensor([prefix[-1] if prefix else END for prefix in TABLE.prefixes])
"""[prefix] the token before; the end token before the first."""
TEXTS = [tuple(token for token in y if token != END) for y in TABLE.responses]
LOGIT_SPREAD, SCORE_SPREAD = 1.0, 0.7
"""Standard deviation of pi_0's logits and of the scores in R and S, in nats."""
SFT_STEPS = {"early": 5, "converged": 300}
SFT_RATE = 0.1
RIDGES = (0.1, 1.0, 10.0, 100.0)
NUM_SAMPLES = 256
"""Responses of pi_SFT on which rewards are measured."""
BEST_OF = 16
CHANCES = best_of_chances(NUM_SAMPLES)[:BEST_OF]
MANY = 16
"""Factor of the number of pairs of init-sft, many."""
NUM_WORLDS = 24
STYLES = {"no style": 0.0, "own style": 2.0}
"""Scale of S for each kind of expert, in units of the pair scores of R."""
SIZES = (64, 512)
"""Numbers N of demonstrations."""
PAIRS = {
    "init-sft": ("init", "sft"),
    "init-demonstrations": ("init", "expert"),
    "sft-demonstrations": ("sft", "expert"),
}


class Case(NamedTuple):
    """A setting of the study: one row of each table."""

    expert: str
    num_demonstrations: int
    sft: str


CASES = [Case(expert, n, sft) for expert in STYLES for n in SIZES for sft in SFT_STEPS]


class RewardQuality(NamedTuple):
    """The quality of a reward in one random world."""

    rank_correlation: float
    """Spearman's, with R, on samples of pi_SFT."""
    gains: list[float]
    """[n - 1] mean R of the best of n samples minus that of one, in standard deviations of R."""


class MeanInterval(NamedTuple):
    """A mean over worlds and half the width of its 95% interval."""

    mean: float
    half_width: float


class RewardSummary(TypedDict):
    """The quality of one reward over all worlds of a case."""

    rank_correlation: MeanInterval
    gains: list[MeanInterval]
    """[n - 1]"""
    beyond_closed_form: MeanInterval
    """Gain of the best of 16 minus that of the closed form."""


def counts(*patterns: tuple[int | None, ...]) -> NDArray[np.float64]:
    """Count each pattern of symbols, where None is any symbol: [response, pattern]."""

    def is_at(text: tuple[int, ...], start: int, pattern: tuple[int | None, ...]) -> bool:
        part = text[start : start + len(pattern)]
        same = all(p in (None, s) for p, s in zip(pattern, part, strict=False))
        return len(part) == len(pattern) and same

    rows = [[sum(is_at(y, i, p) for i in range(len(y))) for p in patterns] for y in TEXTS]
    return np.asarray(rows, np.float64)


SYMBOLS = range(1, NUM_SYMBOLS + 1)
SINGLE = counts(*((a,) for a in SYMBOLS))
NEIGHBORS = counts(*((a, b) for a in SYMBOLS for b in SYMBOLS))
GAPPED = counts(*((a, None, b) for a in SYMBOLS for b in SYMBOLS))
FIRST, FINAL = (
    np.asarray([[float(y[place] == a if y else 0) for a in SYMBOLS] for y in TEXTS])
    for place in (0, -1)
)
LENGTH = SINGLE.sum(1, keepdims=True)
CUT = (LENGTH == MAX_SYMBOLS) * FINAL
FEATURES = {
    "length": LENGTH,
    "small": SINGLE,
    "large": np.hstack([SINGLE, NEIGHBORS, GAPPED, FIRST, FINAL, CUT, LENGTH == 0.0]),
}


def chain_logprobs(logits: Tensor) -> Tensor:
    """Return [response] log-probabilities under a chain of logits [token before, token]."""
    return tabular_response_logprobs(logits[LAST], TABLE)


def make_world(expert: str, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the logits of pi_0, [response] R, and the [response] probabilities of the expert."""

    def scores(features: NDArray[np.float64]) -> Tensor:
        drawn = torch.randn(features.shape[1], generator=generator, dtype=torch.float64)
        return SCORE_SPREAD * torch.from_numpy(features) @ drawn

    shape = NUM_SYMBOLS + 1, NUM_SYMBOLS + 1
    init = LOGIT_SPREAD * torch.randn(shape, generator=generator, dtype=torch.float64)
    golden = scores(SINGLE) + scores(GAPPED)
    style = STYLES[expert] * scores(GAPPED)
    return init, golden, (chain_logprobs(init) + golden + style).softmax(0)


def fine_tuned(init: Tensor, demonstrations: Tensor, num_steps: int) -> Tensor:
    """Return the logits of a chain fitted to demonstrations by maximum likelihood, from pi_0."""
    logits = init.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=SFT_RATE)
    shares = torch.bincount(demonstrations, minlength=len(TEXTS)).double() / len(demonstrations)
    for _ in range(num_steps):
        optimizer.zero_grad()
        (-(shares @ chain_logprobs(logits))).backward()
        optimizer.step()
    return logits.detach()


def learned_reward(
    features: NDArray[np.float64], rejected: NDArray[np.int64], chosen: NDArray[np.int64]
) -> Tensor:
    """Return the [response] reward of largest Bradley-Terry likelihood on pairs of responses."""
    scale = features[np.concatenate([rejected, chosen])].std(0)
    scale[scale == 0.0] = 1.0
    differences = (features[chosen] - features[rejected]) / scale

    def weights(rows: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
        def loss(w: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            margins = rows @ w
            gradient = ridge * w - expit(-margins) @ rows
            return 0.5 * ridge * w @ w + np.logaddexp(0.0, -margins).sum(), gradient

        return minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x

    cut = 4 * len(differences) // 5
    train, validation = differences[:cut], differences[cut:]
    costs = [np.logaddexp(0.0, -validation @ weights(train, ridge)).sum() for ridge in RIDGES]
    best = weights(differences, RIDGES[int(np.argmin(costs))])
    return torch.from_numpy((features / scale) @ best)


def reward_quality(reward: Tensor, golden: Tensor, samples: Tensor) -> RewardQuality:
    """Measure a [response] reward on samples of pi_SFT."""
    reward, golden = reward[samples], golden[samples]
    if reward.unique().numel() == 1:  # all samples are tied
        return RewardQuality(0.0, [0.0] * BEST_OF)
    # Samples are independent and sorting is stable, so ties are broken at random
    ordered = golden[reward.sort(stable=True).indices]
    means = CHANCES @ ordered
    return RewardQuality(
        float(spearmanr(reward, golden).statistic),
        ((means - golden.mean()) / golden.std()).tolist(),
    )


def run_world(case: Case, seed: int) -> dict[str, RewardQuality]:
    """Measure each reward in one random world, the golden reward included."""
    generator = torch.Generator().manual_seed(seed)  # pi_0, R and S are the same in all cases
    logits, golden, expert = make_world(case.expert, generator)

    def draws(probabilities: Tensor, num: int) -> Tensor:
        return torch.multinomial(probabilities, num, replacement=True, generator=generator)

    num = case.num_demonstrations
    tuned = fine_tuned(logits, draws(expert, num), SFT_STEPS[case.sft])
    init, sft = chain_logprobs(logits), chain_logprobs(tuned)
    probabilities = {"init": init.exp(), "sft": sft.exp(), "expert": expert}
    responses = {name: draws(values, num).numpy() for name, values in probabilities.items()}
    rewards = {
        "length": learned_reward(FEATURES["length"], responses["init"], responses["expert"]),
        "closed form": sft - init,
    }
    for pair, (rejected, chosen) in PAIRS.items():
        for size in ("small", "large"):
            rewards[f"{pair}, {size}"] = learned_reward(
                FEATURES[size], responses[rejected], responses[chosen]
            )
    many = (draws(probabilities[side], MANY * num).numpy() for side in PAIRS["init-sft"])
    rewards["init-sft, many"] = learned_reward(FEATURES["large"], *many)
    rewards["golden"] = golden
    samples = draws(probabilities["sft"], NUM_SAMPLES)
    return {name: reward_quality(reward, golden, samples) for name, reward in rewards.items()}


def mean_interval(values: Sequence[float]) -> MeanInterval:
    """Return Student's 95% interval of the mean of independent values."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return MeanInterval(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * error))


def summarize_worlds(worlds: Sequence[dict[str, RewardQuality]]) -> dict[str, RewardSummary]:
    """Average the quality of each reward, and its difference from the closed form, over worlds."""
    summary: dict[str, RewardSummary] = {}
    for name in worlds[0]:
        gains = [world[name].gains for world in worlds]
        differences = [world[name].gains[-1] - world["closed form"].gains[-1] for world in worlds]
        summary[name] = {
            "rank_correlation": mean_interval([world[name].rank_correlation for world in worlds]),
            "gains": [mean_interval(column) for column in zip(*gains, strict=True)],
            "beyond_closed_form": mean_interval(differences),
        }
    return summary


def main() -> None:
    """Run the study, write metrics.json and the plot, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demonstration_rewards"))
    parser.add_argument(
        "--worlds", type=int, default=NUM_WORLDS, help="number of random worlds, at least 2"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    began, console = time.monotonic(), Console(highlight=False)
    results = {
        case: summarize_worlds([run_world(case, seed) for seed in range(arguments.worlds)])
        for case in track(CASES, console=console, transient=True)
    }
    metrics = [{**case._asdict(), "rewards": rewards} for case, rewards in results.items()]
    (arguments.out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    draw_best_of(results, arguments.out / "demonstration_rewards.png")
    print_tables(results, console, arguments.worlds)
    console.print(f"Done in {time.monotonic() - began:.0f} s; metrics and plot: {arguments.out}")


if __name__ == "__main__":
    main()
