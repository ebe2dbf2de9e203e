"""The worker of an expert that is a model: its log-probabilities, or its hidden states."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer

from actors.config.scorers import TeacherConfig
from actors.errors import InvalidInputError
from actors.model_files import empty_policy
from alignment.mdp.packing import PackedBatch, split_microbatches
from alignment.mdp.trajectories import Trajectories
from alignment.models.policy import load_policy

MAX_TOKENS_SHOWN = 3
"""Maximum number of tokens that an error shows; another tokenizer differs in thousands."""


class TeacherWorker:
    """Holds a teacher, which is never trained; the TeacherWorker of actors.messages.

    Up to rounding, the values of a response depend neither on the other responses of the call nor
    on the size of a microbatch.
    """

    def __init__(
        self,
        config: TeacherConfig,
        *,
        max_tokens_per_microbatch: int,
        temperature: float,
        autocast: Literal["bfloat16", "float32"],
    ) -> None:
        """Load the teacher.

        Args:
            temperature: of the softmax; the policy's sampling temperature.
        """
        torch.set_num_threads(max(1, int(config.cpus_per_worker)))
        self._device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        self._model = load_policy(config.model).requires_grad_(False).to(self._device)
        self._max_tokens = max_tokens_per_microbatch
        self._temperature = temperature
        self._autocast = autocast == "bfloat16"

    def logprobs(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return the log-probability [response token] of every response token, in nats.

        The values are those at the temperature, in the order of the trajectories.
        """
        return self._of_actions(
            trajectories, lambda batch: self._model(batch, self._temperature)[0].logprobs
        )

    def states(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return the final hidden states [response token, hidden] after the last norm.

        The teacher predicts each response token from its state: its logits are the state times the
        output head, divided by the temperature.
        """
        return self._of_actions(trajectories, self._model.states)

    @torch.no_grad()
    def _of_actions(
        self, trajectories: Trajectories, compute: Callable[[PackedBatch], Tensor]
    ) -> NDArray[np.float32]:
        """Compute in microbatches; return the values in the order of the trajectories."""
        values, order = [], []
        for batch in split_microbatches(trajectories, self._max_tokens):
            order.append(batch.trajectory_indices)
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                values.append(compute(batch.to(self._device)).float().cpu())
        computed = torch.cat(order).numpy()
        places = np.argsort(computed)
        return trajectories.select(computed).select_values(torch.cat(values).numpy(), places)


def check_teacher(teacher: str, policy: str) -> None:
    """Refuse a teacher with another vocabulary than the policy's, without loading weights.

    Raises:
        InvalidInputError: if the two have vocabularies of different size or tokens with different
            ids, or the teacher's logits are not a plain product of its head and hidden state.
    """
    try:
        num_teacher, num_policy = (
            len(empty_policy(name).head_weight) for name in (teacher, policy)
        )
    except ValueError as error:
        raise InvalidInputError(str(error)) from error
    if num_teacher != num_policy:
        raise InvalidInputError(
            f"teacher.model {teacher} has a vocabulary of {num_teacher} tokens, the policy "
            f"{policy} one of {num_policy}; choose a teacher with the policy's vocabulary"
        )
    tokens, wanted = (AutoTokenizer.from_pretrained(name).get_vocab() for name in (teacher, policy))
    different = [t for t in sorted({*tokens, *wanted}) if tokens.get(t) != wanted.get(t)]
    if different:
        shown = ", ".join(
            f"{token!r} is {tokens.get(token)} and {wanted.get(token)}"
            for token in different[:MAX_TOKENS_SHOWN]
        )
        raise InvalidInputError(
            f"teacher.model {teacher} and the policy {policy} give {len(different)} tokens "
            f"different ids ({shown}); choose a teacher with the policy's tokenizer"
        )
