"""Training throughput of the learner relative to a bare PyTorch loop.

    python -m tests.benchmarks.bench_learner --model FOLDER --prompts 16 --group-size 4

The bare loop has the same model, packed rows, autocast and AdamW, but no tasks, ranks, reference
model or metrics, and computes all logits of the actions at once. Steps of the two alternate, so
that other load on the machine affects both.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, ReferenceConfig, SftConfig
from actors.learner.learner import ADAM_BETAS, Learner
from actors.learner.settings import LearnerSettings
from actors.messages import OnPolicyStep, SftStep
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import concatenate, pack
from alignment.models.attention import packed_hidden_states
from alignment.models.policy import load_policy
from tests.benchmarks.command_line import add_model_options, make_parser, model_folder


def make_task(arguments, step, vocabulary):
    """Return a task of random tokens, whose lengths vary by 30% around the requested ones."""
    rng = np.random.default_rng(0)

    def tokens(mean):
        length = rng.integers(round(0.7 * mean), round(1.3 * mean) + 1)
        return rng.integers(0, vocabulary, max(length, 1)).tolist()

    trajectories = concatenate(
        [
            pack(prompt, tokens(arguments.response_tokens), prompt_id=index)
            for index in range(arguments.prompts)
            for prompt in [tokens(arguments.prompt_tokens)]
            for _ in range(arguments.group_size)
        ]
    )
    values = rng.normal(size=len(trajectories)).astype(np.float32)
    counts = {
        "num_sequences": len(trajectories),
        "num_action_tokens": int(trajectories.action_mask.sum()),
    }
    if arguments.group_size == 1:
        return SftStep(step, 1e-6, trajectories, **counts)
    return OnPolicyStep(
        step=step,
        learning_rate=1e-6,
        trajectories=trajectories,
        discriminator_logits=values,
        rewards=values,
        **counts,
    )


class BareLoop:
    def __init__(self, model, device, dtype, max_tokens):
        self.policy = load_policy(model).to(device)
        self.optimizer = torch.optim.AdamW(
            self.policy.parameters(), 1e-6, betas=ADAM_BETAS, weight_decay=0.0, fused=True
        )
        self.device, self.dtype, self.max_tokens = device, dtype, max_tokens

    def step(self, task):
        for packed in microbatches(task.trajectories, self.max_tokens):
            batch = packed.to(self.device)
            with torch.autocast(self.device.type, self.dtype):
                hidden = packed_hidden_states(self.policy.backbone, batch)
                logits = hidden[batch.state_indices] @ self.policy.head_weight.T
            logprobs = logits.float().log_softmax(dim=-1)
            chosen = logprobs.gather(1, batch.action_ids[:, None])[:, 0]
            advantages = torch.from_numpy(task.rewards).to(self.device)[batch.trajectory_indices]
            loss = -(advantages[batch.sequence_index] * chosen).sum() / task.num_sequences
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())


def seconds(step, task, device, clock):
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    step(task)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def parse_arguments(scratch):
    """Parse the command line; --tiny writes its model to the scratch folder."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    for name, default in {
        "prompts": 16,
        "group-size": 4,
        "prompt-tokens": 40,
        "response-tokens": 28,
        "max-tokens": 4096,
        "repeats": 5,
        "threads": 1,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure CPU seconds, on a shared machine"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--reference", type=float, default=0.0, help="coefficient of the reference; 0: no reference"
    )
    arguments = parser.parse_args()
    arguments.model = model_folder(parser, arguments, scratch)
    return arguments


def learner_settings(arguments, weights):
    """Return the settings of a learner of the requested model and microbatch."""
    return LearnerSettings(
        model=arguments.model,
        weights=weights,
        sft=SftConfig(),
        objective=ObjectiveConfig(reference=ReferenceConfig(coefficient=arguments.reference)),
        temperature=1.0,
        published_dtype="bfloat16",
        config=LearnerConfig(max_tokens_per_microbatch=arguments.max_tokens),
        context_tokens=512,
    )


def compare(arguments, scratch):
    """Print the rates of each repeat and return the ratios."""
    device = torch.device(arguments.device)
    settings = learner_settings(arguments, scratch / "weights")
    learner = Learner(settings, device=device, rank=0, world_size=1)
    bare = BareLoop(arguments.model, device, torch.bfloat16, arguments.max_tokens)
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    steps = {"learner": learner.perform, "bare loop": bare.step}
    ratios = []
    for repeat in range(arguments.repeats + 1):
        task = make_task(arguments, repeat, learner.policy.model.config.vocab_size)
        tokens = sum(b.num_tokens for b in microbatches(task.trajectories, arguments.max_tokens))
        order = list(steps) if repeat % 2 else list(reversed(steps))
        rates = {name: tokens / seconds(steps[name], task, device, clock) for name in order}
        warm_up = "" if repeat else " (warm-up, not counted)"
        values = ", ".join(f"{name} {rates[name]:.0f}" for name in steps)
        print(f"{tokens} tokens: {values} tokens/s{warm_up}", flush=True)
        if repeat:
            ratios.append(rates["learner"] / rates["bare loop"])
    return ratios


def main():
    with tempfile.TemporaryDirectory() as scratch:
        arguments = parse_arguments(scratch)
        torch.set_num_threads(arguments.threads)
        ratios = compare(arguments, Path(scratch))
    print(
        f"learner / bare loop: median {statistics.median(ratios):.3f}, "
        f"from {min(ratios):.3f} to {max(ratios):.3f} over {len(ratios)} repeats"
    )


if __name__ == "__main__":
    main()
