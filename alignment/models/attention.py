"""Attention within the groups of a packed row: its mask and its computation.

A prompt token attends to the prompt up to itself, a response token to its whole prompt and to its
own response up to itself. So hidden states equal those of each prompt with one response alone,
while a prompt is computed once for all of its responses. The attention is registered with
transformers under PACKED_ATTENTION and gets the row's layout through the model's keyword arguments:
load a model with attn_implementation=PACKED_ATTENTION, then call packed_hidden_states.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from alignment.mdp.packing import PackedBatch, PackedGroup

PACKED_ATTENTION = "packed_shared_prompts"
BLOCK_TOKENS = 128
"""Block size of flex attention; on a GPU rows are padded to a multiple of it."""
UNSUPPORTED = ("softcap", "s_aux", "position_bias", "cache")
"""Arguments with which some architectures request variants of attention."""


@dataclass(frozen=True)
class AttentionLayout:
    """Layout of one packed row, shared by the attention of all layers."""

    groups: tuple[PackedGroup, ...]
    """The row's groups, in order."""
    response_masks: tuple[tuple[Tensor, ...], ...]
    """CPU only: the mask [response, prompt + response] of each response of each group, true where
    attended."""
    block_mask: BlockMask | None
    """GPU only: the mask of the whole row for flex attention."""

    @property
    def max_sequence_tokens(self) -> int:
        """Number of tokens of the longest prompt with one response."""
        return max(group.prompt_length + max(group.response_lengths) for group in self.groups)


def packed_hidden_states(
    backbone: PreTrainedModel,
    batch: PackedBatch,
    inputs_embeds: Float[Tensor, "token hidden"] | None = None,
) -> Float[Tensor, "token hidden"]:
    """Run a decoder without its head on a packed row.

    Args:
        backbone: a decoder such as LlamaModel, loaded with attn_implementation=PACKED_ATTENTION.
        inputs_embeds: used instead of the tokens' embeddings, to differentiate by them.

    Returns:
        The last hidden state of every token of the row, after the final norm.

    Raises:
        ValueError: if the backbone was loaded with another attention, or requests a variant that is
            not supported on a packed row.
    """
    if backbone.config._attn_implementation != PACKED_ATTENTION:
        raise ValueError(
            f"the backbone uses {backbone.config._attn_implementation!r} attention; "
            f"load it with attn_implementation={PACKED_ATTENTION!r}"
        )
    layout = attention_layout(batch)
    padding = -batch.num_tokens % BLOCK_TOKENS if layout.block_mask is not None else 0
    tokens: dict[str, Tensor] = (
        {"input_ids": pad(batch.token_ids, (0, padding))[None]}
        if inputs_embeds is None
        else {"inputs_embeds": pad(inputs_embeds, (0, 0, 0, padding))[None]}
    )
    output = backbone(
        **tokens,
        position_ids=pad(batch.position_ids, (0, padding))[None],
        use_cache=False,
        packed_layout=layout,
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden[: batch.num_tokens]


def attention_layout(batch: PackedBatch) -> AttentionLayout:
    """Build the layout for all layers: masks of responses on the CPU, a block mask on a GPU."""
    if batch.token_ids.device.type == "cpu":
        masks = tuple(tuple(_mask(g.prompt_length, r) for r in _masked(g)) for g in batch.groups)
        return AttentionLayout(batch.groups, masks, None)
    return AttentionLayout(batch.groups, (), shared_prompt_block_mask(batch))


def _masked(group: PackedGroup) -> tuple[int, ...]:
    """Lengths of the responses that need a mask; a single response is plain causal attention."""
    return group.response_lengths if len(group.response_lengths) > 1 else ()


def _mask(prompt_length: int, response_length: int) -> Tensor:
    mask = torch.ones(response_length, prompt_length + response_length, dtype=torch.bool)
    return mask.tril(diagonal=prompt_length)


def shared_prompt_block_mask(batch: PackedBatch) -> BlockMask:
    """Build flex attention's mask of a packed row, padded to a multiple of BLOCK_TOKENS.

    Padding forms one more group at the end, so that no token attends to it and it attends to
    itself, which keeps its softmax finite.

    Returns:
        The mask, on the batch's device.
    """
    num_tokens = batch.num_tokens + -batch.num_tokens % BLOCK_TOKENS
    group_of, segment_of = _segments(batch.groups, num_tokens, batch.token_ids.device)
    return create_block_mask(
        lambda _batch, _head, query, key: (
            (group_of[query] == group_of[key])
            & (query >= key)
            & ((segment_of[key] == 0) | (segment_of[key] == segment_of[query]))
        ),
        None,
        None,
        num_tokens,
        num_tokens,
        device=str(batch.token_ids.device),
    )


def _segments(
    groups: tuple[PackedGroup, ...], num_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the group of each token, and its segment: 0 in the prompt, from 1 in the responses."""
    lengths = [[group.prompt_length, *group.response_lengths] for group in groups]
    flat = [n for segments in lengths for n in segments]
    segment = torch.tensor([i for segments in lengths for i in range(len(segments))])
    group = torch.tensor([i for i, segments in enumerate(lengths) for _ in segments])
    repeats = torch.tensor(flat)
    padding = (0, num_tokens - sum(flat))
    return (
        pad(group.repeat_interleave(repeats), padding, value=len(groups)).to(device),
        pad(segment.repeat_interleave(repeats), padding).to(device),
    )


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "1 heads token head_dim"],
    key: Float[Tensor, "1 kv_heads token head_dim"],
    value: Float[Tensor, "1 kv_heads token head_dim"],
    attention_mask: Tensor | None,
    *,
    packed_layout: AttentionLayout,
    scaling: float | None = None,
    dropout: float = 0.0,
    **variant: Any,  # noqa: ANN401 (transformers passes all arguments of the model)
) -> tuple[Float[Tensor, "1 token heads head_dim"], None]:
    """Attend within each group of a packed row; the signature is transformers'.

    Args:
        module: the attention layer; not used.
        query: queries of all tokens of the row.
        key: keys, whose number of heads divides that of query (grouped-query attention).
        attention_mask: None; transformers makes no mask for a registered attention.
        packed_layout: groups and masks of the row.
        scaling: factor of the attention scores; None is 1 / sqrt(head_dim).
        dropout: must be 0.
        variant: other arguments of the architecture.

    Returns:
        The attended values, and None for the attention weights, which are not computed.

    Raises:
        ValueError: if the architecture requests a variant that is not supported.
    """
    window = variant.get("sliding_window")
    unsupported = [name for name in UNSUPPORTED if variant.get(name) is not None]
    if window is not None and window < packed_layout.max_sequence_tokens:
        unsupported.append(f"sliding_window = {window}")
    if dropout:
        unsupported.append(f"dropout = {dropout}")
    if unsupported:
        raise ValueError(
            f"packed attention does not support {', '.join(unsupported)} for sequences of up to "
            f"{packed_layout.max_sequence_tokens} tokens; choose a model without it"
        )
    attend = _attend_by_group if packed_layout.block_mask is None else _attend_flex
    output = attend(query, key, value, packed_layout, scaling)
    return output.transpose(1, 2).to(value.dtype), None


def _attend_by_group(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scaling: float | None
) -> Tensor:
    """Compute one call per prompt and per response, without padding, in float32."""
    # On a CPU this was faster than one call a group with a dense mask (3 times with 8 responses of
    # 200 tokens, equal with 4 of 28) and than all groups padded to one call; and float32 was up to
    # 2.7 times as fast as bfloat16, whose backward kernel is slow. Tensors are split once, since
    # differentiating a slice for each segment would fill the whole row each time.
    sizes = [
        size
        for group in layout.groups
        for size in (
            (group.prompt_length, *group.response_lengths)
            if _masked(group)
            else (group.num_tokens,)
        )
    ]
    dtype = torch.promote_types(query.dtype, torch.float32)
    with torch.autocast(query.device.type, enabled=False):
        segments = zip(
            *(torch.split(x.to(dtype), sizes, dim=2) for x in (query, key, value)), strict=True
        )
        outputs = []
        for masks in layout.response_masks:
            q, prompt_k, prompt_v = next(segments)
            outputs.append(
                scaled_dot_product_attention(
                    q, prompt_k, prompt_v, is_causal=True, scale=scaling, enable_gqa=True
                )
            )
            for mask in masks:
                q, k, v = next(segments)
                outputs.append(
                    scaled_dot_product_attention(
                        q,
                        torch.cat([prompt_k, k], dim=2),
                        torch.cat([prompt_v, v], dim=2),
                        attn_mask=mask,
                        scale=scaling,
                        enable_gqa=True,
                    )
                )
        return torch.cat(outputs, dim=2)


def _attend_flex(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scaling: float | None
) -> Tensor:
    """Compute all groups in one kernel, which skips masked blocks."""
    kernel: Any = _compiled_flex_attention() if query.is_cuda else flex_attention
    output: Tensor = kernel(
        query.to(value.dtype),
        key.to(value.dtype),
        value,
        block_mask=layout.block_mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output


@cache
def _compiled_flex_attention() -> Callable[..., Tensor]:
    """Compile the kernel once; its shapes are dynamic, so rows of any length share it."""
    return torch.compile(flex_attention)


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
