"""A stand-in of an inference engine whose weights can be wrong in known ways.

It is transformers at the engine's precision. Its rounding is not that of vLLM's kernels.
"""

import torch
from transformers import AutoModelForCausalLM

HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"


class StandInEngine:
    """Scores texts with the weights that it was given, at its precision."""

    def __init__(self, folder, dtype):
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        head = torch.empty_like(self.model.lm_head.weight)
        self.model.lm_head.weight = torch.nn.Parameter(head)  # no longer tied

    @torch.no_grad()
    def load(self, weights):
        for name, parameter in self.model.named_parameters():
            parameter.copy_(weights[name])

    @torch.no_grad()
    def scores(self, texts):
        """Texts have equal lengths."""
        rows = []
        for ids in torch.tensor(texts).split(32):
            logits = self.model(input_ids=ids, use_cache=False).logits[:, :-1].float()
            rows += logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0].tolist()
        return rows


def published(policy, dtype):
    """The weights of a policy as an engine gets them, with a copy for a tied head."""
    dtype = getattr(torch, dtype)
    parameters = policy.model.named_parameters()
    weights = {name: each.detach().clone().to(dtype) for name, each in parameters}
    return {HEAD: weights[EMBEDDINGS], **weights}


def middle_layer(weights):
    numbers = [int(name.split(".")[2]) for name in weights if name.startswith("model.layers.")]
    return f"model.layers.{(max(numbers) + 1) // 2}."


def matching(weights, choose):
    return {name: weight for name, weight in weights.items() if choose(name)}


def all_stale(old, new):
    return old


def head_stale(old, new):
    return {**new, HEAD: old[HEAD]}


def embeddings_stale(old, new):
    return {**new, EMBEDDINGS: old[EMBEDDINGS]}


def layer_stale(old, new):
    layer = middle_layer(new)
    return {**new, **matching(old, lambda name: name.startswith(layer))}


def norms_stale(old, new):
    return {**new, **matching(old, lambda name: "norm" in name)}


def projection_missing(old, new):
    name = middle_layer(new) + "mlp.down_proj.weight"
    return {**new, name: torch.zeros_like(new[name])}


def rounded_to_8_bits(old, new):
    return {
        name: each.to(torch.float8_e4m3fn).to(each.dtype) if each.dim() == 2 else each
        for name, each in new.items()
    }


def another_model(old, new):
    generator = torch.Generator().manual_seed(0)
    return {
        name: each.flatten()[torch.randperm(each.numel(), generator=generator)].view_as(each)
        if each.dim() == 2
        else each
        for name, each in new.items()
    }


def two_swapped(old, new):
    gate, up = (f"{middle_layer(new)}mlp.{name}_proj.weight" for name in ("gate", "up"))
    return {**new, gate: new[up], up: new[gate]}


def square_transposed(old, new):
    name = middle_layer(new) + "self_attn.o_proj.weight"
    return {**new, name: new[name].T}


def rows_permuted(old, new):
    name = middle_layer(new) + "mlp.down_proj.weight"
    return {**new, name: new[name].roll(1, 0)}


STALE = (all_stale, head_stale, embeddings_stale, layer_stale, norms_stale)
"""Their size is that of the update."""
WRONG = (
    projection_missing,
    rounded_to_8_bits,
    another_model,
    two_swapped,
    square_transposed,
    rows_permuted,
)
"""Their size is that of the weights."""
