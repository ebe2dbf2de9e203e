"""Patches of faults in vLLM 0.32; each can go when vLLM has fixed the fault.

Only this module and vllm_engine import vLLM, and only this one uses its private functions.
"""

import torch
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import layerwise
from vllm.v1.sample import sampler


def repack_heads(model: torch.nn.Module) -> None:
    """Repack the matrices of the heads for oneDNN, after weights were reloaded on the CPU.

    vLLM 0.32 reloads the embedding but not the packed copy of it with which a tied head computes:
    sampling continued with the old head, off by 1.04 nats and without a warning.
    """
    for module in model.modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


def undo_unfinished_reload(model: torch.nn.Module) -> None:
    """Restore tensors after a reload that failed; otherwise vLLM 0.32 fails every later one too.

    The layers then hold a mixture of old and new weights and must be loaded again.
    """
    for layer in model.modules():
        info = layerwise.get_layerwise_info(layer)
        if info.can_load():
            if info.kernel_tensors is not None:
                layerwise._place_kernel_tensors(layer, info)
            info.reset()
    layerwise.LOADING_LAYERS.clear()


def leave_out_token_ranks() -> None:
    """Report the rank of every sampled token as 0, since irlign does not use it.

    vLLM 0.32 counts the larger log-probabilities in the vocabulary for each token, which takes a
    quarter of a step on the CPU with a vocabulary of 49,152.
    """

    def no_ranks(logprobs: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return logprobs.new_zeros(len(logprobs)).long()

    sampler.batched_count_greater_than = no_ranks
