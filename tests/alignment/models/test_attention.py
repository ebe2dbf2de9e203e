import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import concatenate, pack
from alignment.models.attention import (
    PACKED_ATTENTION,
    attention_layout,
    packed_attention,
    packed_hidden_states,
    shared_prompt_block_mask,
)


def tiny(attention, **changes):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        **changes,
    )
    config._attn_implementation = attention
    return LlamaModel(config)


TRAJECTORIES = concatenate(
    [
        pack([5, 6, 7], [7, 2], prompt_id=3),
        pack([5, 6, 7], [8, 9, 10, 2], prompt_id=3),
        pack([5, 6, 7], [8], prompt_id=3),
        pack([4, 3], [1, 2, 11], prompt_id=4),
        pack([9], [12, 13], prompt_id=5),
        pack([9], [14], prompt_id=5),
    ]
)


def test_hidden_states_and_gradients_equal_those_of_each_sequence_alone():
    (batch,) = microbatches(TRAJECTORIES, 100)
    packed, plain = tiny(PACKED_ATTENTION), tiny("sdpa")
    states = packed_hidden_states(packed, batch)[batch.state_indices]
    loss = 0.0
    for row in range(len(TRAJECTORIES)):
        tokens = [*TRAJECTORIES.prompt(row), *TRAJECTORIES.response(row)]
        alone = plain(torch.tensor([tokens]).long()).last_hidden_state[0]
        start = int(TRAJECTORIES.prompt_lengths[row]) - 1
        actions = batch.sequence_index == row
        torch.testing.assert_close(states[actions], alone[start:-1], atol=1e-5, rtol=1e-5)
        loss = loss + alone[start:-1].sin().sum()
    loss.backward()
    states.sin().sum().backward()
    gradients = {name: p.grad for name, p in plain.named_parameters()}
    for name, parameter in packed.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-5, rtol=1e-5)


def test_flex_attention_with_the_block_mask_equals_the_calls_by_group():
    (batch,) = microbatches(TRAJECTORIES, 100)
    rng = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, h, 128, 16, generator=rng) for h in (4, 2, 2))
    layout = attention_layout(batch)
    flex = type(layout)(batch.groups, (), shared_prompt_block_mask(batch))
    module, n = torch.nn.Identity(), batch.num_tokens
    expected, _ = packed_attention(
        module, query[:, :, :n], key[:, :, :n], value[:, :, :n], None, packed_layout=layout
    )
    with pytest.warns(UserWarning, match="without torch.compile"):
        found, _ = packed_attention(module, query, key, value, None, packed_layout=flex)
    torch.testing.assert_close(found[:, :n], expected)
    assert found.isfinite().all()  # padding included


def test_given_embeddings_stand_in_for_the_tokens():
    (batch,) = microbatches(TRAJECTORIES, 100)
    model = tiny(PACKED_ATTENTION)
    embeddings = model.embed_tokens(batch.token_ids)
    with torch.no_grad():
        expected = packed_hidden_states(model, batch)
        torch.testing.assert_close(packed_hidden_states(model, batch, embeddings), expected)


def test_another_attention_is_refused():
    (batch,) = microbatches(TRAJECTORIES, 100)
    with pytest.raises(ValueError, match="uses 'sdpa' attention; load it with"):
        packed_hidden_states(tiny("sdpa"), batch)


@pytest.mark.parametrize(
    ("variant", "complaint"),
    [
        ({"softcap": 50.0}, "softcap"),
        ({"sliding_window": 6}, "sliding_window = 6"),
        ({"dropout": 0.1}, "dropout = 0.1"),
    ],
)
def test_attention_of_another_kind_is_refused(variant, complaint):
    (batch,) = microbatches(TRAJECTORIES, 100)
    x = torch.zeros(1, 2, batch.num_tokens, 8)
    with pytest.raises(ValueError, match=f"not support {complaint} for sequences of up to 7"):
        packed_attention(
            torch.nn.Identity(), x, x, x, None, packed_layout=attention_layout(batch), **variant
        )


def test_a_window_that_no_sequence_reaches_is_no_obstacle():
    (batch,) = microbatches(TRAJECTORIES, 100)
    x = torch.zeros(1, 2, batch.num_tokens, 8)
    layout = attention_layout(batch)
    packed_attention(torch.nn.Identity(), x, x, x, None, packed_layout=layout, sliding_window=7)
