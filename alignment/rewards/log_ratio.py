"""The log-ratio of two policies as a reward.

With pi_SFT over pi_0 it is the closed form of the init-sft contrast (contrasts.py): it
is what a reward model learns from infinitely many samples of the two. Adding it with weight w to
a penalty of weight b on KL(pi, pi_SFT) leads to pi_SFT (pi_SFT / pi_0)^(w / b), an extrapolation.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from alignment.mdp.packing import split_microbatches
from alignment.mdp.segments import sequence_sums
from alignment.mdp.trajectories import Trajectories
from alignment.models.policy import PolicyModel


@torch.no_grad()
def log_ratios(
    numerator: PolicyModel,
    denominator: PolicyModel,
    trajectories: Trajectories,
    *,
    temperature: float,
    max_tokens: int,
) -> Float[Tensor, " trajectory"]:
    """Compute log numerator(response | prompt) - log denominator(response | prompt).

    Args:
        numerator: a policy with the same tokens and on the same device as the denominator.
        trajectories: prompts and responses, those of a prompt adjacent to share its computation.
        temperature: softmax temperature of both, positive.
        max_tokens: most tokens in a microbatch, a prompt counted once; changes memory only.

    Returns:
        Summed over the response's tokens, in nats, float64 on the CPU, without gradient. Up to
        rounding it does not depend on the other responses.

    Raises:
        ValueError: if the temperature is not positive, or a prompt with one response is longer than
            max_tokens.
    """
    ratios = torch.zeros(len(trajectories), dtype=torch.float64)
    device = numerator.head_weight.device
    for packed in split_microbatches(trajectories, max_tokens) if len(trajectories) else ():
        batch = packed.to(device)
        above, below = (
            policy(batch, temperature)[0].logprobs for policy in (numerator, denominator)
        )
        sums = sequence_sums((above - below).double(), batch.sequence_index, batch.num_sequences)
        ratios[packed.trajectory_indices] = sums.cpu()
    return ratios
