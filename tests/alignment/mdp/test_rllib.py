"""The token MDP is an ordinary gymnasium environment: RLlib's PPO learns on it."""

import gymnasium
import pytest
import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.tune.registry import register_env

from alignment.mdp.token_mdp import ENVIRONMENT_ID, TokenMDP

pytestmark = [pytest.mark.ray, pytest.mark.slow]

MDP = TokenMDP(num_tokens=4, end_token=0, max_response_tokens=3, context_tokens=8)
PROMPTS = [(a, b) for a in (1, 2, 3) for b in (1, 2, 3)]


def copied_fraction(prompt, response):
    """Share of the three tokens prompt[0], prompt[1], end that the response has in place."""
    wanted = (*prompt, MDP.end_token)
    return sum(a == b for a, b in zip(wanted, response, strict=False)) / len(wanted)


@pytest.fixture
def local_ray():
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def test_ppo_learns_to_copy_the_prompt(local_ray):
    register_env(
        "copy",
        lambda _: gymnasium.make(ENVIRONMENT_ID, mdp=MDP, prompts=PROMPTS, reward=copied_fraction),
    )
    config = (
        PPOConfig()
        .environment("copy")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=16, rollout_fragment_length=64)
        .training(
            train_batch_size_per_learner=1024,
            minibatch_size=256,
            num_epochs=6,
            lr=2e-3,
            gamma=1.0,
            lambda_=1.0,
            entropy_coeff=0.003,
        )
        .rl_module(model_config={"fcnet_hiddens": [64, 64]})
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    returns = []
    try:
        while len(returns) < 25 and not (returns and returns[-1] > 0.8):
            returns.append(algorithm.train()["env_runners"]["episode_return_mean"])
    finally:
        algorithm.stop()
    assert returns[0] < 0.4, returns  # random tokens copy a quarter
    assert returns[-1] > 0.8, returns
