"""The policy: a causal language model that scores packed rows of prompts and responses."""

from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from alignment.divergences.full_vocabulary import Teacher, state_divergences
from alignment.mdp.packing import PackedBatch
from alignment.models.attention import PACKED_ATTENTION, packed_hidden_states
from alignment.models.logprobs import TokenScores, token_logprobs

OTHER_LOGITS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "mup_enabled")
"""Settings of architectures whose logits are not the plain product of head and hidden state."""


class PolicyModel(nn.Module):
    """The root module of the policy, which computes log-probabilities in its forward pass.

    FSDP2 requires that all parameters are used within one module, including a head that shares the
    embeddings' weights.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take a model loaded with attn_implementation=PACKED_ATTENTION.

        Args:
            model: a causal language model of transformers whose head is one matrix.

        Raises:
            ValueError: if the logits are not the product of head and hidden state.
        """
        super().__init__()
        unsupported = [
            name for name in OTHER_LOGITS if getattr(model.config, name, None) is not None
        ]
        if model.lm_head.bias is not None:
            unsupported.append("a head with bias")
        if unsupported:
            raise ValueError(
                f"{model.config.model_type} has {', '.join(unsupported)}, which is not supported; "
                "choose a model whose logits are a plain product of head and hidden state"
            )
        self.model = model

    def forward(
        self, batch: PackedBatch, temperature: float, teacher: Teacher | None = None
    ) -> tuple[TokenScores, Float[Tensor, " action"] | None]:
        """Score every action of a packed row.

        Args:
            teacher: distributions at the batch's states, in its order and on its device.

        Returns:
            The scores of each action; and, if there is a teacher, its divergence from the policy
            at each state, in nats, with gradient.
        """
        states = self.states(batch)
        scores = token_logprobs(states, self.head_weight, batch.action_ids, temperature)
        if teacher is None:
            return scores, None
        return scores, state_divergences(states, self.head_weight, teacher, temperature)

    def states(self, batch: PackedBatch) -> Float[Tensor, "action hidden"]:
        """Return the normed final hidden states that predict the actions of a packed row."""
        return packed_hidden_states(self.backbone, batch)[batch.state_indices]

    @property
    def backbone(self) -> PreTrainedModel:
        """The decoder without its head."""
        return cast("PreTrainedModel", self.model.base_model)

    @property
    def head_weight(self) -> Float[Tensor, "vocab hidden"]:
        """The head's matrix, which may be shared with the embeddings."""
        weight: Tensor = self.model.lm_head.weight
        return weight

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The decoder layers, which have equal shapes."""
        return cast("nn.ModuleList", self.backbone.layers)


def load_policy(name: str | Path) -> PolicyModel:
    """Load a causal language model in float32, without dropout, on the CPU.

    Args:
        name: folder or hub name, in Hugging Face format with safetensors.

    Returns:
        The policy in evaluation mode: dropout would make log-probabilities random.
    """
    model = AutoModelForCausalLM.from_pretrained(
        name,
        dtype=torch.float32,
        attn_implementation=PACKED_ATTENTION,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return PolicyModel(model).eval()
