"""What vLLM 0.32 gets wrong here, mended from outside: each repair can go when vLLM has it.

Only this file and the engine's import vLLM, and this one reaches into its private parts.
"""

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import layerwise
from vllm.v1.sample import sampler


def repack_heads(model: torch.nn.Module) -> None:
    """Rebuild what oneDNN multiplies by: a head tied to the embedding keeps the old one otherwise.

    vLLM 0.32 reloads the embedding and forgets the packed copy of it that a tied head computes
    with: on the CPU, sampling went on from the old head, wrong by 1.04 nats and without a warning.
    """
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def undo_unfinished_reload(model: torch.nn.Module) -> None:
    """Put tensors back where a reload broke off, else vLLM 0.32 fails every later one too.

    The layers are then a mixture of old and new weights, fit only to be loaded over.
    """
    for layer in model.modules():
        info = layerwise.get_layerwise_info(layer)
        if info.can_load():
            if info.kernel_tensors is not None:
                layerwise._place_kernel_tensors(layer, info)
            info.reset()
    layerwise.LOADING_LAYERS.clear()


def leave_out_token_ranks() -> None:
    """Report every sampled token's rank in its distribution as 0: nobody reads it.

    vLLM 0.32 counts the larger log-probabilities in the whole vocabulary for each token, which on
    the CPU takes a quarter of a step with a vocabulary of 49,152.
    """

    def no_ranks(logprobs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return logprobs.new_zeros(len(logprobs)).long()

    sampler.batched_count_greater_than = no_ranks
