"""The study of rewards learned from demonstrations, on enumerated responses."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from alignment.rewards.best_of_n import value_of_best
from deploy.examples.reward_models import demonstration_rewards as study
from deploy.examples.reward_models.demonstration_rewards_tables import (
    HEADS,
    draw_best_of,
    print_tables,
)

CASE = study.Case("no style", 64, "early")


def unexplained(features, reward):
    """Largest residual of a linear reward of these features and a constant."""
    columns = np.hstack([features, np.ones((len(features), 1))])
    weights, *_ = np.linalg.lstsq(columns, reward.numpy(), rcond=None)
    return np.abs(columns @ weights - reward.numpy()).max()


@pytest.mark.parametrize("expert", study.STYLES)
def test_large_rewards_can_express_every_optimum_and_small_ones_none(expert):
    init, golden, expert_probabilities = study.make_world(expert, torch.Generator().manual_seed(3))
    sft = study.fine_tuned(init, torch.arange(50), 20)
    logprobs = study.chain_logprobs(init), study.chain_logprobs(sft), expert_probabilities.log()
    for probabilities in (logprobs[0].exp(), logprobs[1].exp(), expert_probabilities):
        assert probabilities.sum().item() == pytest.approx(1.0)
    optima = [b - a for a, b in ((0, 1), (0, 2), (1, 2)) for a, b in [(logprobs[a], logprobs[b])]]
    for optimum in (*optima, golden):
        assert unexplained(study.FEATURES["large"], optimum) < 1e-9
        assert unexplained(study.FEATURES["small"], optimum) > 0.1
    # Without a style of its own, the expert is the initial policy tilted by the golden reward
    tilt = optima[1] - golden
    assert (tilt.std() < 1e-9) == (expert == "no style")


def test_a_reward_learned_from_many_pairs_is_the_log_ratio():
    logits, golden, _ = study.make_world("no style", torch.Generator().manual_seed(3))
    init, rng = study.chain_logprobs(logits), np.random.default_rng(0)
    chosen = (init + 0.3 * golden).softmax(0)
    responses = [rng.choice(len(init), 40_000, p=each.numpy()) for each in (init.exp(), chosen)]
    optimum = chosen.log() - init

    def spread(values):
        return (init.exp() @ (values - init.exp() @ values).square()).sqrt().item()

    assert spread(study.learned_reward(study.FEATURES["large"], *responses) - optimum) < 0.1
    assert spread(optimum) > 0.3


def test_the_golden_reward_selects_the_best_of_its_samples():
    golden = torch.linspace(-1.0, 2.0, len(study.TEXTS), dtype=torch.float64)
    samples = torch.randperm(len(golden), generator=torch.Generator().manual_seed(0))
    samples = samples[: study.NUM_SAMPLES]
    quality = study.reward_quality(golden, golden, samples)
    drawn = golden[samples]
    numbers = range(1, study.BEST_OF + 1)
    best = torch.cat([value_of_best(drawn[None], drawn[None], n) for n in numbers])
    best = (best - drawn.mean()) / drawn.std()
    assert quality.gains == pytest.approx(best.tolist())
    assert quality.rank_correlation == pytest.approx(1.0)
    assert study.reward_quality(-golden, golden, samples).rank_correlation == pytest.approx(-1.0)
    constant = study.reward_quality(torch.zeros_like(golden), golden, samples)
    assert constant == (0.0, [0.0] * study.BEST_OF)


def test_a_world_is_reproducible_and_appears_in_tables_and_plot(tmp_path):
    worlds = [study.run_world(CASE, seed) for seed in (0, 0, 1)]
    assert worlds[0] == worlds[1] != worlds[2]
    summary = study.summarize_worlds(worlds[1:])
    gains = [world["length"].gains[-1] for world in worlds[1:]]
    assert summary["length"]["gains"][-1].mean == pytest.approx(np.mean(gains))
    # Student's 97.5% point at one degree of freedom, times half the difference of the two
    half_width = 12.706 * abs(gains[0] - gains[1]) / 2.0
    assert summary["length"]["gains"][-1].half_width == pytest.approx(half_width, rel=1e-4)
    assert summary["closed form"]["beyond_closed_form"] == (0.0, 0.0)
    results = {CASE: summary, CASE._replace(sft="converged"): summary}
    console = Console(file=io.StringIO(), width=90)
    print_tables(results, console, 2)
    text = console.file.getvalue()
    assert f"{summary['length']['gains'][-1].mean:.2f}" in text
    for name in HEADS.keys() - {"closed form"}:
        assert name in text
    draw_best_of(results, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
