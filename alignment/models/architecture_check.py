"""Checks that the log-probabilities of an architecture are correct on packed rows.

Packed rows are computed by irlign's own attention. An architecture that mixes tokens in another way
(a convolution, a recurrence, a window) or changes its logits would run without an error, but with
wrong log-probabilities. So a small random model of the same configuration scores a packed row, and
the result must agree with transformers' own forward pass on each text alone.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from alignment.mdp.packing import PackedBatch, microbatches
from alignment.mdp.trajectories import concatenate, pack
from alignment.models.attention import PACKED_ATTENTION
from alignment.models.policy import PolicyModel

MAX_DIFFERENCE_NATS = 1e-3
"""Maximum difference of a token's log-probability in float32. Correct architectures differ by about
1e-6, those that leak between texts by 0.05 or more."""
PROMPTS = ((3, 5, 8, 13, 21, 34), (2, 7, 1))
RESPONSES = (((4, 6, 10, 9), (11,)), ((12, 14, 15, 16, 17), (18, 19)))
"""Token ids of two prompts with two responses each."""
VOCAB = 64
REMEDY = (
    "choose another architecture, such as Llama, Qwen 2 or 3, Mistral, Gemma, Phi 3, OLMo 2 or GLM"
)
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""Settings with the number of experts of a mixture."""
MIN_LAYERS, MAX_LAYERS = 2, 8
"""Number of layers of the small model; the maximum if layers of another kind recur periodically."""


def check_architecture(config: PretrainedConfig, max_tokens: int) -> None:
    """Refuse an architecture that irlign does not compute correctly.

    Args:
        config: configuration of the model.
        max_tokens: maximum length of a prompt with a response.

    Raises:
        ValueError: with a sentence that names the unsupported feature.
    """
    name = config.model_type
    text = config.get_text_config()
    if num_experts := next((n for key in EXPERTS if (n := getattr(text, key, None) or 0) > 1), 0):
        raise ValueError(
            f"{name} is a mixture of {num_experts} experts, whose weights cannot be published to "
            "rollout workers; choose a dense model"
        )
    window, kinds = getattr(text, "sliding_window", None), getattr(text, "layer_types", None)
    if window and window < max_tokens and (not kinds or "sliding_attention" in kinds):
        raise ValueError(
            f"{name} attends within a window of {window} tokens, and texts of this job have up to "
            f"{max_tokens}; lower data.max_prompt_tokens or data.max_response_tokens"
        )
    try:
        difference = packing_difference(text)
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name} cannot be computed on packed rows ({reason}); {REMEDY}"
        ) from error
    if not difference <= MAX_DIFFERENCE_NATS:
        raise ValueError(
            f"{name} would train on wrong log-probabilities: packed with other texts they differ "
            f"by up to {difference:.2g} nats a token from those of each text alone, where at most "
            f"{MAX_DIFFERENCE_NATS} is accepted; its layers are not plain causal "
            f"attention; {REMEDY}"
        )


def packing_difference(config: PretrainedConfig) -> float:
    """Return the largest difference in nats between log-probabilities of packed and single texts.

    Args:
        config: configuration of the model, from which a small random model is built.
    """
    small = _few_layers(config)
    try:
        return _difference(_narrow(small))
    except Exception:  # widths that depend on one another: the architecture itself may be right
        return _difference(small)


def _difference(config: PretrainedConfig) -> float:
    """Return the largest difference of a random model of this configuration, in nats."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, attn_implementation=PACKED_ATTENTION
        )
        model = model.float().eval()  # type: ignore[no-untyped-call]
        packed = PolicyModel(model)(_packed_row(), 1.0)[0].logprobs
        model.set_attn_implementation("eager")
        texts = zip(PROMPTS, RESPONSES, strict=True)
        alone = [_alone(model, prompt, each) for prompt, responses in texts for each in responses]
        difference = (packed - torch.cat(alone)).abs().max()
    return float(difference)


def _packed_row() -> PackedBatch:
    """Return all texts in one row."""
    groups = enumerate(zip(PROMPTS, RESPONSES, strict=True))
    rows = [
        pack(prompt, response, prompt_id=number)
        for number, (prompt, responses) in groups
        for response in responses
    ]
    (batch,) = microbatches(concatenate(rows), max_tokens=1000)
    return batch


def _alone(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """Return the log-probability of each response token, [token], by transformers alone."""
    ids = torch.tensor([[*prompt, *response]])
    logprobs = model(input_ids=ids, use_cache=False).logits[0].float().log_softmax(-1)
    actions = torch.arange(len(prompt), ids.shape[1])
    chosen: Tensor = logprobs[actions - 1, ids[0, actions]]
    return chosen


def _few_layers(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration with at least one layer of each kind, and a small vocabulary."""
    small = copy.deepcopy(config)
    small.num_hidden_layers = _shorten_layer_lists(small)
    small.vocab_size = VOCAB
    for token in ("pad_token_id", "bos_token_id", "eos_token_id"):
        setattr(small, token, None)
    small.initializer_range = 1.0 / math.sqrt(small.hidden_size)  # so that logits are of size 1
    small.dtype = torch.float32
    return small


def _narrow(config: PretrainedConfig) -> PretrainedConfig:
    """Return the configuration with two key-value heads and a small multilayer perceptron."""
    narrow = copy.deepcopy(config)
    heads, key_value_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    narrow.num_key_value_heads = min(key_value_heads, 2)
    narrow.num_attention_heads = narrow.num_key_value_heads * (heads // key_value_heads)
    narrow.hidden_size = narrow.num_attention_heads * head_dim
    narrow.intermediate_size = min(config.intermediate_size, narrow.hidden_size)
    if hasattr(config, "head_dim"):
        narrow.head_dim = head_dim
    narrow.initializer_range = 1.0 / math.sqrt(narrow.hidden_size)
    return narrow


def _shorten_layer_lists(config: PretrainedConfig) -> int:
    """Keep one layer of each kind where kinds are listed, and return how many layers remain."""
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return min(
            int(config.num_hidden_layers), MAX_LAYERS if _has_periods(config) else MIN_LAYERS
        )
    kept = sorted({kind: layer for layer, kind in reversed(list(enumerate(kinds)))}.values())
    kept = kept if len(kept) > 1 else [0] * min(MIN_LAYERS, len(kinds))
    for name, value in list(vars(config).items()):
        if isinstance(value, list) and len(value) == len(kinds):
            setattr(config, name, [value[layer] for layer in kept])
    return len(kept)


def _has_periods(config: PretrainedConfig) -> bool:
    """Whether settings place layers of another kind by a period or an offset."""
    return any(name.endswith(("_period", "_offset", "_interval")) for name in vars(config))
