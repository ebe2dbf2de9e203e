"""A discriminator of pure numpy: logistic regression on which tokens a response has, and how many.

It learns in milliseconds what real ones learn in minutes, as long as the classes differ in that.
"""

import json

import numpy as np

from alignment.discriminator.control_classifiers import control_accuracies, white_space_edges
from alignment.discriminator.replay import PromptGroup
from alignment.mdp.trajectories import EMPTY, concatenate

STEPS_PER_UPDATE = 50
LEARNING_RATE = 0.5


class LogisticDiscriminatorWorker:
    def __init__(self, vocab_size):
        self.weights = np.zeros(vocab_size + 2)
        self.white_space = white_space_edges(["a"] * vocab_size)
        self.num_updates = 0
        self.earlier = (EMPTY, EMPTY)

    def update(self, rollouts, demonstrations, held_out, ranked=None, num_epochs=1):
        if set(rollouts.prompt_ids.tolist()) != set(demonstrations.prompt_ids.tolist()):
            raise ValueError("the classes must share their prompts")
        metrics = self._measured(rollouts, demonstrations)
        if len(held_out):
            unseen = self._measured(rollouts, held_out)
            unseen["accuracy_held_out"] = unseen.pop("accuracy_fresh")
            unseen["auc_held_out"] = unseen.pop("auc_fresh")
            kept = ("accuracy_fresh", "auc_fresh", "logit_expert")
            metrics = unseen | {name: metrics[name] for name in kept}
        earlier = PromptGroup(*self.earlier)
        fresh = PromptGroup(rollouts, held_out if len(held_out) else demonstrations)
        metrics |= control_accuracies(earlier, fresh, self.white_space) | {"skipped": 0.0}
        policy = self._features(concatenate([rollouts, self.earlier[0]]))
        expert = self._features(concatenate([demonstrations, self.earlier[1]]))
        gradient = np.zeros_like(self.weights)
        for _ in range(STEPS_PER_UPDATE):
            gradient = (sigmoid(policy @ self.weights)[:, None] * policy).mean(0)
            gradient -= (sigmoid(-expert @ self.weights)[:, None] * expert).mean(0)
            self.weights -= LEARNING_RATE * gradient
        self.num_updates += 1
        expert_logits, policy_logits = expert @ self.weights, policy @ self.weights
        metrics["loss"] = softplus(-expert_logits).mean() + softplus(policy_logits).mean()
        metrics["grad_norm"] = np.linalg.norm(gradient)
        metrics["accuracy_trained"] = accuracy(expert_logits, policy_logits)
        metrics["replayed"] = len(self.earlier[0])
        self.earlier = (rollouts, demonstrations)
        return {f"discriminator/{name}": float(value) for name, value in metrics.items()}

    def score(self, trajectories):
        return (self._features(trajectories) @ self.weights).astype(np.float32)

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        earlier = {
            f"{name}.{column}": values
            for name, batch in zip(("rollouts", "demonstrations"), self.earlier, strict=True)
            for column, values in batch._asdict().items()
        }
        np.savez(folder / "fake.npz", weights=self.weights, **earlier)
        (folder / "counters.json").write_text(json.dumps({"num_updates": self.num_updates}))

    def load(self, folder):
        with np.load(folder / "fake.npz", allow_pickle=False) as arrays:
            self.weights = arrays["weights"]
            self.earlier = tuple(
                type(EMPTY)(*(arrays[f"{name}.{column}"] for column in EMPTY._fields))
                for name in ("rollouts", "demonstrations")
            )
        self.num_updates = json.loads((folder / "counters.json").read_text())["num_updates"]

    def _features(self, trajectories):
        features = np.zeros((len(trajectories), len(self.weights)))
        for row in range(len(trajectories)):
            response = trajectories.response(row)
            np.add.at(features[row], response, 1.0 / len(response))
            features[row, -2:] = (len(response) / 32.0, 1.0)
        return features

    def _measured(self, rollouts, demonstrations):
        policy = self.score(rollouts).astype(np.float64)
        expert = self.score(demonstrations).astype(np.float64)
        lengths = rollouts.response_lengths - rollouts.response_lengths.mean()
        spread = (lengths**2).sum()
        return {
            "accuracy_fresh": accuracy(expert, policy),
            "auc_fresh": (np.sign(expert[:, None] - policy) / 2 + 0.5).mean(),
            "logit_expert": expert.mean(),
            "logit_policy": policy.mean(),
            "calibration_expert": sigmoid(-expert).mean(),
            "calibration_policy": sigmoid(policy).mean(),
            "forward_kl_estimate": expert.mean(),
            "reverse_kl_estimate": -policy.mean(),
            "jensen_shannon_estimate": np.log(2)
            - (softplus(-expert).mean() + softplus(policy).mean()) / 2,
            "length_slope": (lengths * policy).sum() / spread if spread else 0.0,
        }


def accuracy(expert_logits, policy_logits):
    return 0.5 + (np.sign(expert_logits).mean() - np.sign(policy_logits).mean()) / 4


def sigmoid(logits):
    return 1.0 / (1.0 + np.exp(-logits))


def softplus(logits):
    return np.logaddexp(0.0, logits)
