"""Rewards learned from demonstrations alone, against the closed form and against length.

    python -m deploy.examples.reward_models.demonstration_rewards --out demonstration_rewards

Everything is enumerated. A response is up to five of four symbols, 1,365 in all. The initial policy
pi_0 is a random bigram chain; the golden reward R has a score for each symbol and one for each pair
of symbols with one between them, which no chain can express. The expert is p ~ pi_0 e^R or, with a
style of its own, p ~ pi_0 e^(R + S), where S is a random score of such pairs that has nothing to do
with R. pi_SFT is a chain fitted to N demonstrations, for a few steps or until it has converged.
Each contrast then takes N pairs: one answer of each side to each of N further prompts, whose
demonstrations pi_SFT has not seen, as irlign reward-model contrast does; init-sft once more with
sixteen times as many, since its policies can be asked for ever.

A learned reward is linear in features and fitted by the Bradley-Terry likelihood with a ridge
penalty chosen on a fifth of the pairs. Small rewards see how often each symbol occurs; large ones
also neighbors, pairs with one between, first and last, so they can express every contrast's
optimum exactly. Length alone is such a reward of init-demonstrations. What rewards are for is
measured on responses of pi_SFT: their rank correlation with R, and R of the best of n.

What 24 worlds showed, of the best of 16 in eight cases. A learned init-sft reward never beat the
closed form: with N pairs and large features it was worse in five cases, with sixteen times as many
in one, by 0.09. init-demonstrations with large features was never worse than the closed form, and
better by 0.10 and 0.19 standard deviations where the expert had no style of its own and N was 512.
sft-demonstrations with large features was worse in all four cases without a style, most where
pi_SFT had converged. With a style of the expert's own closed form and init-demonstrations lost 38
to 73 % of their gain, and neither was shown to be the better one there.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import spearmanr, t

from alignment.discriminator.metrics import enumerate_responses, tabular_response_logprobs
from alignment.rewards.best_of_n import best_of_chances
from deploy.examples.reward_models.demonstration_rewards_shown import draw, show

NUM_SYMBOLS, MAX_SYMBOLS, END = 4, 5, 0
TABLE = enumerate_responses(NUM_SYMBOLS + 1, END, MAX_SYMBOLS)
LAST = torch.tensor([prefix[-1] if prefix else END for prefix in TABLE.prefixes])
"""[prefix] the token before; the end token stands for the beginning."""
TEXTS = [tuple(token for token in y if token != END) for y in TABLE.responses]
LOGIT_SPREAD, SCORE_SPREAD = 1.0, 0.7
"""Standard deviation of pi_0's logits, and of the scores that make up R and S, in nats."""
SFT_STEPS = {"early": 5, "converged": 300}
SFT_RATE = 0.1
RIDGES = (0.1, 1.0, 10.0, 100.0)
NUM_SAMPLES = 256
"""Of pi_SFT, on which rewards are measured."""
BEST_OF = 16
CHANCES = best_of_chances(NUM_SAMPLES)[:BEST_OF]
MANY = 16
"""Times as many pairs of init-sft."""
NUM_WORLDS = 24
STYLES = {"no style": 0.0, "own style": 2.0}
"""Expert to the size of S, in that of R's part with one symbol between."""
SIZES = (64, 512)
"""Numbers N of demonstrations."""
PAIRS = {
    "init-sft": ("init", "sft"),
    "init-demonstrations": ("init", "expert"),
    "sft-demonstrations": ("sft", "expert"),
}


class Case(NamedTuple):
    """One row of the tables."""

    expert: str
    num_demonstrations: int
    sft: str


CASES = [Case(expert, n, sft) for expert in STYLES for n in SIZES for sft in SFT_STEPS]


class Worth(NamedTuple):
    """What a reward is worth in one random world."""

    rank_correlation: float
    """Spearman's, with R on samples of pi_SFT."""
    gains: list[float]
    """[n - 1] R of the best of n samples less that of one, in standard deviations of R."""


class Interval(NamedTuple):
    """A mean over the seeds, and half the width of its 95% interval."""

    mean: float
    half_width: float


def counts(*patterns):
    """[response, pattern] how often each pattern of symbols occurs; None is any symbol."""

    def is_at(text, start, pattern):
        part = text[start : start + len(pattern)]
        same = all(p in (None, s) for p, s in zip(pattern, part, strict=False))
        return len(part) == len(pattern) and same

    found = [[sum(is_at(y, i, p) for i in range(len(y))) for p in patterns] for y in TEXTS]
    return np.asarray(found, np.float64)


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


def chain_logprobs(logits):
    """[response] log-probability under a chain of logits [token before, token]."""
    return tabular_response_logprobs(logits[LAST], TABLE)


def make_world(expert, generator):
    """Draw pi_0 as logits, R and p as [response]."""

    def scores(features):
        drawn = torch.randn(features.shape[1], generator=generator, dtype=torch.float64)
        return SCORE_SPREAD * torch.from_numpy(features) @ drawn

    shape = NUM_SYMBOLS + 1, NUM_SYMBOLS + 1
    init = LOGIT_SPREAD * torch.randn(shape, generator=generator, dtype=torch.float64)
    golden = scores(SINGLE) + scores(GAPPED)
    style = STYLES[expert] * scores(GAPPED)
    return init, golden, (chain_logprobs(init) + golden + style).softmax(0)


def fine_tuned(init, demonstrations, num_steps):
    """Fit a chain to demonstrations by maximum likelihood, from pi_0 on."""
    logits = init.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=SFT_RATE)
    shares = torch.bincount(demonstrations, minlength=len(TEXTS)).double() / len(demonstrations)
    for _ in range(num_steps):
        optimizer.zero_grad()
        (-(shares @ chain_logprobs(logits))).backward()
        optimizer.step()
    return logits.detach()


def learned(features, rejected, chosen):
    """[response] the reward of largest Bradley-Terry likelihood on pairs of responses."""
    scale = features[np.concatenate([rejected, chosen])].std(0)
    scale[scale == 0.0] = 1.0
    differences = (features[chosen] - features[rejected]) / scale

    def weights(rows, ridge):
        def loss(w):
            margins = rows @ w
            gradient = ridge * w - expit(-margins) @ rows
            return 0.5 * ridge * w @ w + np.logaddexp(0.0, -margins).sum(), gradient

        return minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B").x

    cut = 4 * len(differences) // 5
    kept, apart = differences[:cut], differences[cut:]
    costs = [np.logaddexp(0.0, -apart @ weights(kept, ridge)).sum() for ridge in RIDGES]
    best = weights(differences, RIDGES[int(np.argmin(costs))])
    return torch.from_numpy((features / scale) @ best)


def measure(reward, golden, samples):
    """Judge a reward on samples of pi_SFT."""
    reward, golden = reward[samples], golden[samples]
    if reward.unique().numel() == 1:  # nothing was learned, and nothing is preferred
        return Worth(0.0, [0.0] * BEST_OF)
    # Samples are independent and sorting is stable, so that chance breaks ties
    ordered = golden[reward.sort(stable=True).indices]
    means = CHANCES @ ordered
    return Worth(
        float(spearmanr(reward, golden).statistic),
        ((means - golden.mean()) / golden.std()).tolist(),
    )


def run_world(case, seed):
    """Return what each reward is worth in one random world, the golden one included."""
    generator = torch.Generator().manual_seed(seed)  # pi_0, R and S are the same in all cases
    logits, golden, expert = make_world(case.expert, generator)

    def draws(probabilities, num):
        return torch.multinomial(probabilities, num, replacement=True, generator=generator)

    num = case.num_demonstrations
    tuned = fine_tuned(logits, draws(expert, num), SFT_STEPS[case.sft])
    init, sft = chain_logprobs(logits), chain_logprobs(tuned)
    chances = {"init": init.exp(), "sft": sft.exp(), "expert": expert}
    said = {name: draws(values, num).numpy() for name, values in chances.items()}
    rewards = {
        "length": learned(FEATURES["length"], said["init"], said["expert"]),
        "closed form": sft - init,
    }
    for pair, (rejected, chosen) in PAIRS.items():
        for size in ("small", "large"):
            rewards[f"{pair}, {size}"] = learned(FEATURES[size], said[rejected], said[chosen])
    many = (draws(chances[side], MANY * num).numpy() for side in PAIRS["init-sft"])
    rewards["init-sft, many"] = learned(FEATURES["large"], *many)
    rewards["golden"] = golden
    samples = draws(chances["sft"], NUM_SAMPLES)
    return {name: measure(reward, golden, samples) for name, reward in rewards.items()}


def interval(values):
    """Student's interval of the mean of independent values."""
    error = np.std(values, ddof=1) / np.sqrt(len(values))
    return Interval(float(np.mean(values)), float(t.ppf(0.975, len(values) - 1) * error))


def summary(worlds):
    """Return figures of a case by reward, and differences from the closed form in each world."""
    figures = {}
    for name in worlds[0]:
        gains = [world[name].gains for world in worlds]
        apart = [world[name].gains[-1] - world["closed form"].gains[-1] for world in worlds]
        figures[name] = {
            "rank_correlation": interval([world[name].rank_correlation for world in worlds]),
            "gains": [interval(column) for column in zip(*gains, strict=True)],
            "beyond_closed_form": interval(apart),
        }
    return figures


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demonstration_rewards"))
    parser.add_argument("--worlds", type=int, default=NUM_WORLDS, help="seeds, two or more")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    began, console = time.monotonic(), Console(highlight=False)
    found = {
        case: summary([run_world(case, seed) for seed in range(arguments.worlds)])
        for case in track(CASES, console=console, transient=True)
    }
    figures = [{**case._asdict(), "rewards": rewards} for case, rewards in found.items()]
    (arguments.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    draw(found, arguments.out / "demonstration_rewards.png")
    show(found, console, arguments.worlds)
    console.print(f"Done in {time.monotonic() - began:.0f} s; figures and picture: {arguments.out}")


if __name__ == "__main__":
    main()
