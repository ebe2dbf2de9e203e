"""A decoder with a scalar head: one logit for each response, or for each of its prefixes.

The state of a response token depends on the prompt and the response up to that token, so the head
scores that prefix, and at the last token the whole response. The head computes in float32 whatever
the precision of the decoder's matrix products.
"""

from collections.abc import Mapping
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedModel

from alignment.mdp.packing import PackedBatch, response_token_indices
from alignment.models.attention import PACKED_ATTENTION, packed_hidden_states
from alignment.models.lora import add_adapters

Tuning = Literal["full", "lora", "frozen"]


class ScalarModel(nn.Module):
    """A decoder with a scalar head that is initialized to zero, so that every first logit is 0.

    Token embeddings are never trained. A table of 49,152 x 576 is larger than six layers of such a
    model: its gradient and moments would take 340 MB (and 0.03 s an update, little), and weight
    decay would pull all rows to 0 for the sake of the few that a batch uses.

    Example:
        model = ScalarModel(load_backbone("model", num_layers=6), "full", "bfloat16", seed=0)
        logits = model(batch)  # one a response, in the row's order
        prefix_logits = model(batch, per_token=True)  # one a response token
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        tuning: Tuning,
        autocast: Literal["bfloat16", "float32"],
        seed: int,
        *,
        num_outputs: int = 1,
        has_bias: bool = True,
    ) -> None:
        """Put a head on a backbone and choose what is trained.

        Args:
            backbone: a decoder without its head, from load_backbone; changed in place.
            tuning: full trains all of it but its token embeddings; lora only low-rank adapters on
                its linear layers; frozen nothing of it. The head is always trained.
            autocast: precision of the backbone's matrix products.
            seed: random seed of the adapters; nothing else is random.
            has_bias: whether the head has a bias, which is the same for all responses.
        """
        super().__init__()
        if tuning == "lora":
            add_adapters(backbone, seed)
        elif tuning == "frozen":
            backbone.requires_grad_(False)
        self.backbone = backbone
        self.backbone.train(mode=False)  # no dropout: a response has one logit
        self.backbone.get_input_embeddings().requires_grad_(False)
        self.head = nn.Linear(backbone.config.hidden_size, num_outputs, bias=has_bias)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self._autocast = autocast == "bfloat16"

    def embed(self, batch: PackedBatch) -> Float[Tensor, "token hidden"]:
        """Return the embeddings of the row's tokens, to differentiate the logits by them."""
        embeddings: Tensor = self.backbone.get_input_embeddings()(batch.token_ids)
        return embeddings

    def forward(
        self,
        batch: PackedBatch,
        inputs_embeds: Float[Tensor, "token hidden"] | None = None,
        *,
        per_token: bool = False,
    ) -> Float[Tensor, " logit"] | Float[Tensor, "logit output"]:
        """Return one logit a response, or one a prefix of it.

        Args:
            inputs_embeds: result of embed, to differentiate by it or to change it.
            per_token: a logit for each response token, on the response up to and including it.

        Returns:
            Logits in the row's order; batch.trajectory_indices says whose they are, with
            batch.sequence_index where there is one a token. Of a head with several outputs, a row
            of them in place of each logit.
        """
        device = batch.token_ids.device.type
        with torch.autocast(device, dtype=torch.bfloat16, enabled=self._autocast):
            hidden = packed_hidden_states(self.backbone, batch, inputs_embeds)
        scored = response_token_indices(batch) if per_token else batch.last_indices
        logits: Tensor = self.head(hidden[scored].float()).squeeze(-1)
        return logits

    @property
    def decoder_layers(self) -> nn.ModuleList:
        """The equal layers that make up most of the model."""
        return cast("nn.ModuleList", self.backbone.layers)


def load_backbone(name: str, num_layers: int | None) -> PreTrainedModel:
    """Load a decoder without its head in float32, ready for packed rows.

    Args:
        name: folder or hub name of a causal language model with safetensors.
        num_layers: keep only the first ones, and the final norm; None keeps all.

    Returns:
        The decoder, with the weights that the files hold.

    Raises:
        ValueError: if the model has fewer layers.
    """
    config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    if num_layers is not None:
        if num_layers > config.num_hidden_layers:
            raise ValueError(
                f"discriminator.num_layers = {num_layers}, but {name} has "
                f"{config.num_hidden_layers} layers; lower it"
            )
        if getattr(config, "layer_types", None) is not None:
            config.layer_types = config.layer_types[:num_layers]
        config.num_hidden_layers = num_layers
    backbone: PreTrainedModel = AutoModel.from_pretrained(
        name,
        config=config,
        dtype=torch.float32,
        attn_implementation=PACKED_ATTENTION,
        use_safetensors=True,
        trust_remote_code=False,
    )
    return backbone


HEAD_RATE_FACTOR = 30.0
"""The head's learning rate over the backbone's. Adam moves each weight by the rate whatever the
gradient is, so at the backbone's rate a head that begins at zero leaves the reward near zero for
hundreds of steps. On six layers of a 135M model the classes were 0.01 nats apart after 20 updates
at 1e-5, but 0.15, 0.5 and 1.0 after 16 with factors 30, 100 and 300, the last with spikes of the
gradient; at 1e-4 the loss after 11 updates was 1.27 with factor 1 and 0.71 with 30."""


WEIGHT_DECAY = 0.01
"""Weight decay of matrices. At the backbone's rates it has almost no effect in hundreds of steps;
fewer layers, adapters and the penalties counteract overfitting."""


def scalar_optimizer(
    parameters: Mapping[str, nn.Parameter], learning_rate: float
) -> torch.optim.AdamW:
    """Make AdamW in one fused kernel, with weight decay on matrices only.

    Args:
        parameters: those of a ScalarModel that are trained, by name.

    Returns:
        The optimizer; peak_lr in each of its groups is the group's learning rate.
    """
    groups = []
    for is_head, rate in ((True, HEAD_RATE_FACTOR), (False, 1.0)):
        for is_matrix, decay in ((True, WEIGHT_DECAY), (False, 0.0)):
            chosen = [
                parameter
                for name, parameter in parameters.items()
                if name.startswith("head.") == is_head and (parameter.ndim >= 2) == is_matrix
            ]
            peak = learning_rate * rate
            groups.append({"params": chosen, "weight_decay": decay, "lr": peak, "peak_lr": peak})
    return torch.optim.AdamW([group for group in groups if group["params"]], fused=True)
