"""Real discriminator workers on a tiny policy, and classes that they can tell apart."""

import numpy as np
import torch

from actors.config.scorers import DiscriminatorConfig
from actors.discriminator.worker import DiscriminatorWorker
from alignment.divergences.lookup import divergence
from alignment.mdp.trajectories import concatenate, pack
from tests.fakes.tiny_llama import VOCAB_SIZE


def make_worker(
    folder,
    *,
    level="trajectory",
    name="jensen_shannon",
    max_tokens=4096,
    autocast="float32",
    seed=0,
    preferences=None,
    **changes,
):
    settings = {"learning_rate": 3e-3, "replay_fraction": 0.0} | changes
    return DiscriminatorWorker(
        folder,
        DiscriminatorConfig(**settings),
        level=level,
        divergence=divergence(name),
        max_tokens_per_microbatch=max_tokens,
        autocast=autocast,
        seed=seed,
        preferences=preferences,
    )


def batch(step, *, num_prompts=4, group_size=2, exchanged=False):
    """The expert prefers tokens 3 to 8, the policy 9 to 14; prompts and lengths are alike."""
    rng = np.random.default_rng(step)

    def respond(prompt, prompt_id, prefers_low):
        length = int(rng.integers(4, 8))
        low = rng.random(length) < (0.95 if prefers_low else 0.05)
        tokens = rng.integers(3, 9, length) + np.where(low, 0, 6)
        return pack(prompt, [*tokens.tolist(), 2], prompt_id=prompt_id)

    rollouts, demonstrations = [], []
    for index in range(num_prompts):
        prompt, prompt_id = rng.integers(3, VOCAB_SIZE, 3).tolist(), step * num_prompts + index
        rollouts += [respond(prompt, prompt_id, exchanged) for _ in range(group_size)]
        demonstrations.append(respond(prompt, prompt_id, not exchanged))
    return concatenate(rollouts), concatenate(demonstrations)


def set_head(worker):
    """A head that is not zero, so that every weight has a gradient at once."""
    with torch.no_grad():
        worker._model.head.weight.copy_(torch.linspace(-0.5, 0.5, 32)[None])


def weights(worker):
    return {name: p.detach().clone() for name, p in worker._model.named_parameters()}
