"""The worker that scores responses with a reward model, or with an ensemble of them."""

import itertools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from actors.errors import RewardError
from actors.reward_model.files import READS_CONVERSATIONS, load_reward_model
from actors.rewards.reward_errors import raise_together, require_finite
from actors.rewards.sources import member_names
from alignment.data.chat_template import conversation_tokens
from alignment.data.demonstrations import Demonstration
from alignment.data.tokenized import decoded
from alignment.mdp.trajectories import Trajectories

Encoding = dict[str, list[int]]
MAX_TOKENS_PER_BATCH = 8192
"""Tokens of one forward pass, padding included: a few hundred MiB of activations."""


class RewardModelWorker:
    """Holds sequence-classification models with one output; a RewardSource of actors.messages.

    A reward does not depend on what else is scored in the same call. A model whose head is not in
    its files is refused, since its rewards would be random. The worker computes in float32, on the
    GPU if it sees one.
    """

    def __init__(self, model: str, policy: str) -> None:
        """Load the reward model.

        Args:
            model: folder or hub name of the reward model, or the folder of an ensemble.
            policy: folder or hub name of the policy, whose tokenizer made the trajectories.
        """
        names = member_names(model)
        self._policy_tokenizer = AutoTokenizer.from_pretrained(policy)
        self._tokenizer = AutoTokenizer.from_pretrained(names[0])
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._members = [load_reward_model(name) for name in names]
        for member in self._members:
            member.to(device=self._device)  # type: ignore[call-arg]
        config = self._members[0].config
        self._pad_token_id: int | None = config.pad_token_id
        self._reads_conversations = getattr(config, READS_CONVERSATIONS, False)
        self._has_policys_tokens = have_same_tokens(self._tokenizer, self._policy_tokenizer)
        self._max_tokens = min(
            self._tokenizer.model_max_length,
            getattr(config, "max_position_embeddings", sys.maxsize),
        )

    def score(
        self, trajectories: Trajectories, expert_responses: Sequence[str]
    ) -> NDArray[np.float32]:
        """Return the model's output [trajectory] for each trajectory; of an ensemble, the mean.

        Raises:
            RewardError: if a text is longer than the model's context, or a reward is not finite.
        """
        del expert_responses
        rewards: NDArray[np.float32] = self.member_scores(trajectories).mean(axis=0)
        return rewards

    def member_scores(self, trajectories: Trajectories) -> NDArray[np.float32]:
        """Return each member's output [member, trajectory]; see score for the errors.

        Members differ where the training data do not determine the reward.
        """
        encoded = self._encoded(trajectories)
        lengths = [len(tokens["input_ids"]) for tokens in encoded]
        raise_together(
            RewardError(
                f"prompt {prompt_id}: prompt and response take {length} of the reward model's "
                f"tokens, more than its context of {self._max_tokens}; lower "
                f"data.max_prompt_tokens or data.max_response_tokens",
                [prompt_id],
            )
            for prompt_id, length in zip(trajectories.prompt_ids.tolist(), lengths, strict=True)
            if length > self._max_tokens
        )
        rewards = np.zeros((len(self._members), len(encoded)), np.float32)
        for rows in batches_by_length(lengths, MAX_TOKENS_PER_BATCH):
            for member, model in enumerate(self._members):
                rewards[member, rows] = self._forward(model, [encoded[row] for row in rows])
        require_finite(rewards.sum(axis=0), trajectories.prompt_ids)
        return rewards

    def _encoded(self, trajectories: Trajectories) -> list[Encoding]:
        """Return the model's input: the policy's own tokens if the model was trained on them."""
        if self._reads_conversations and self._has_policys_tokens:
            ends = np.cumsum(trajectories.lengths)[:-1]
            tokens = np.split(trajectories.token_ids, ends)
            return [_encoding(each.tolist()) for each in tokens if len(trajectories)]
        texts = decoded(self._policy_tokenizer, trajectories)
        if self._reads_conversations:
            rows = [Demonstration(*text) for text in texts]
            pairs = conversation_tokens(self._tokenizer, rows, system_prompt=None)
            return [_encoding([*pair.prompt.tolist(), *pair.response.tolist()]) for pair in pairs]
        return [self._encode(prompt, response) for prompt, response in texts]

    def _encode(self, prompt: str, response: str) -> Encoding:
        if self._tokenizer.chat_template is None:
            return dict(self._tokenizer(prompt, response))
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
        encoded: Any = self._tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
        return dict(encoded)

    @torch.inference_mode()
    def _forward(self, model: PreTrainedModel, encoded: Sequence[Encoding]) -> NDArray[np.float32]:
        # transformers reads a decoder's reward at the last token that is not the pad token. If the
        # model has no pad token, use one that no text holds, so that no text's end counts as one.
        used = {token for tokens in encoded for token in tokens["input_ids"]}
        unused = next(token for token in itertools.count() if token not in used)
        pad = unused if self._pad_token_id is None else self._pad_token_id
        if pad >= model.config.vocab_size and len(encoded) > 1:  # the texts hold every token
            return np.concatenate([self._forward(model, [tokens]) for tokens in encoded])
        model.config.pad_token_id = pad
        width = max(len(tokens["input_ids"]) for tokens in encoded)
        inputs = {
            name: torch.tensor(
                [
                    tokens[name] + [pad if name == "input_ids" else 0] * (width - len(tokens[name]))
                    for tokens in encoded
                ],
                device=self._device,
            )
            for name in encoded[0]
        }
        rewards: NDArray[np.float32] = model(**inputs).logits.squeeze(-1).cpu().numpy()
        return rewards


def have_same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether both tokenizers turn a conversation into the same tokens."""
    has_template = first.chat_template == second.chat_template
    return has_template and bool(first.get_vocab() == second.get_vocab())


def _encoding(token_ids: list[int]) -> Encoding:
    return {"input_ids": token_ids, "attention_mask": [1] * len(token_ids)}


def batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return batches of the indices of sequences of similar length, so that little is padding.

    Args:
        max_tokens: most tokens in a batch, padding included; a longer sequence is a batch alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches
