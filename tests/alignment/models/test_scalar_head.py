import pytest
import torch
from transformers import AutoModelForCausalLM

from alignment.mdp.packing import microbatches, response_token_indices
from alignment.mdp.trajectories import concatenate, pack
from alignment.models.lora import BASE, DOWN, UP, merge_adapters
from alignment.models.scalar_head import ScalarModel, load_backbone
from tests.fakes.tiny_llama import save_tiny_llama

TRAJECTORIES = concatenate(
    [
        pack([5, 6, 7], [7, 2], prompt_id=3),
        pack([5, 6, 7], [8, 9, 10, 2], prompt_id=3),
        pack([5, 6, 7], [8], prompt_id=3),
        pack([4, 3], [1, 2, 11], prompt_id=4),
        pack([9], [12, 13], prompt_id=5),
    ]
)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    return save_tiny_llama(folder, tied=request.param, num_layers=3)


def scalar_model(folder, tuning="full", num_layers=None, head=0.0, seed=0):
    model = ScalarModel(load_backbone(folder, num_layers), tuning, "float32", seed=seed)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        model.head.weight.copy_(head * torch.randn(1, 32, generator=rng))
        model.head.bias.fill_(head)
    return model


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def test_first_logits_are_exactly_zero_even_in_bfloat16(folder):
    (batch,) = microbatches(TRAJECTORIES, 100)
    model = ScalarModel(load_backbone(folder, None), "full", "bfloat16", seed=0)
    assert model(batch).tolist() == [0.0] * 5
    assert model(batch).dtype == torch.float32


def test_a_logit_is_the_head_on_the_last_state_of_the_policys_own_decoder(folder):
    policy = AutoModelForCausalLM.from_pretrained(folder).eval()
    model = scalar_model(folder, head=1.0)
    (batch,) = microbatches(TRAJECTORIES, 100)
    logits = torch.zeros(5)
    logits[batch.trajectory_indices] = model(batch).detach()
    for row in range(5):
        tokens = [*TRAJECTORIES.prompt(row), *TRAJECTORIES.response(row)]
        with torch.no_grad():
            state = policy.model(torch.tensor([tokens]).long()).last_hidden_state[0, -1]
            expected = model.head(state)[0]
        torch.testing.assert_close(logits[row], expected, atol=1e-5, rtol=1e-5)


def test_prefix_logits_are_those_of_the_response_cut_there(folder):
    model = scalar_model(folder, head=1.0)
    (batch,) = microbatches(TRAJECTORIES, 100)
    prefix_logits = model(batch, per_token=True).detach()
    assert prefix_logits.shape == (12,)
    tokens = batch.token_ids[response_token_indices(batch)]
    assert torch.equal(tokens, batch.action_ids)
    place = 0
    for row in batch.trajectory_indices.tolist():
        prompt = TRAJECTORIES.prompt(row).tolist()
        response = TRAJECTORIES.response(row).tolist()
        for end in range(1, len(response) + 1):
            (cut,) = microbatches(pack(prompt, response[:end], prompt_id=0), 100)
            expected = model(cut).detach()[0]
            torch.testing.assert_close(prefix_logits[place], expected, atol=1e-5, rtol=1e-5)
            place += 1


def test_truncation_keeps_the_first_layers_weights(folder):
    policy = AutoModelForCausalLM.from_pretrained(folder).model
    backbone = load_backbone(folder, num_layers=2)
    kept = backbone.state_dict()
    assert len(backbone.layers) == 2
    assert {name for name in policy.state_dict() if not name.startswith("layers.2.")} == set(kept)
    for name, value in kept.items():
        torch.testing.assert_close(value, policy.state_dict()[name], atol=0, rtol=0)
    with pytest.raises(ValueError, match="has 3 layers"):
        load_backbone(folder, num_layers=4)


def test_tuning_says_what_is_trained(folder):
    head = {"head.weight", "head.bias"}
    assert trained_names(scalar_model(folder, "frozen")) == head
    full = scalar_model(folder, "full")
    everything = {name for name, _ in full.named_parameters()}
    assert everything - trained_names(full) == {"backbone.embed_tokens.weight"}
    lora = trained_names(scalar_model(folder, "lora"))
    layers = 3 * ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    assert len(lora - head) == 2 * len(layers)
    assert all(name.endswith((DOWN, UP)) for name in lora - head)


def test_adapters_begin_at_nothing_and_add_a_scaled_low_rank_map(folder):
    (batch,) = microbatches(TRAJECTORIES, 100)
    plain, adapted = scalar_model(folder, "full", head=1.0), scalar_model(folder, "lora", head=1.0)
    torch.testing.assert_close(adapted(batch), plain(batch), atol=0, rtol=0)
    with torch.no_grad():
        for name, factor in adapted.named_parameters():
            if name.endswith(UP):
                factor.normal_()
    tensors = {name: tensor.detach() for name, tensor in adapted.named_parameters()}
    merged = scalar_model(folder, "full", head=1.0)
    merged.load_state_dict(merge_adapters(tensors))
    torch.testing.assert_close(adapted(batch), merged(batch))
    assert not torch.allclose(adapted(batch), plain(batch))
    name = "backbone.layers.0.mlp.up_proj"
    factors = tensors[f"{name}.{UP}"], tensors[f"{name}.{DOWN}"]
    weight = tensors[f"{name}.{BASE}.weight"] + 2.0 * factors[0] @ factors[1]
    torch.testing.assert_close(merge_adapters(tensors)[f"{name}.weight"], weight)
    assert factors[1].shape[0] == 8


def test_the_random_half_of_adapters_follows_their_seed(folder):
    models = [scalar_model(folder, "lora", seed=seed) for seed in (1, 1, 2)]
    one, same, other = (dict(model.named_parameters()) for model in models)
    downs = [name for name in one if name.endswith(DOWN)]
    assert all(torch.equal(one[name], same[name]) for name in downs)
    assert not any(torch.equal(one[name], other[name]) for name in downs)


def test_embeddings_given_are_those_of_the_tokens(folder):
    (batch,) = microbatches(TRAJECTORIES, 100)
    model = scalar_model(folder, head=1.0)
    embeddings = model.embed(batch).requires_grad_()
    logits = model(batch, embeddings)
    torch.testing.assert_close(logits, model(batch), atol=0, rtol=0)
    # A response's logit depends on its own tokens and its prompt, and on nothing else.
    (gradient,) = torch.autograd.grad(logits[0], embeddings)
    group = batch.groups[0]
    own = torch.zeros(batch.num_tokens, dtype=torch.bool)
    own[: group.prompt_length + group.response_lengths[0]] = True
    assert bool((gradient[own].abs().sum(-1) > 0).all())
    assert float(gradient[~own].abs().max()) == 0.0
