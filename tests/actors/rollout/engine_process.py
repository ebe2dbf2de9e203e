"""A rollout worker with a real engine, in a process of its own: one process holds one engine.

Imports neither torch nor vLLM at the top, so that the environment can be set before they load.
"""
# ruff: noqa: PLC0415

import asyncio
import itertools
import multiprocessing
import os
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from actors.config.rollout import RolloutConfig
from actors.messages import Canary, Published, RolloutRequest
from alignment.mdp.trajectories import PolicyVersion

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM

    from actors.rollout.worker import RolloutWorker

NUM_TOKENS = 64
END_TOKEN_IDS = [2, 3]
MAX_PROMPT_TOKENS = 40
MAX_RESPONSE_TOKENS = 24
CANARY = ((1, 5, 7, 9, 30, 11, 63), (8, 40, 2), (33, 34, 35, 36, 37))

STATE: dict[str, Any] = {}
"""What the engine's process holds."""


def tiny_llama(seed: int, *, tied: bool) -> "LlamaForCausalLM":
    """Random weights, far enough from zero that no two seeds give similar distributions."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=END_TOKEN_IDS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def token_logprobs(model: "LlamaForCausalLM", token_ids, temperature: float = 1.0) -> list[float]:
    """Of each token after the first, from one plain forward pass."""
    import torch

    ids = torch.as_tensor(token_ids, dtype=torch.int64)
    with torch.no_grad():
        logits = model(ids[None]).logits[0, :-1] / temperature
    return logits.log_softmax(-1).gather(1, ids[1:, None])[:, 0].tolist()


class EngineProcess:
    """The worker, reached by sending it coroutine functions of it; and what a learner would do."""

    def __init__(self, folder: Path, *, tied: bool, temperature: float):
        self.temperature = temperature
        self.tied = tied
        self.config = RolloutConfig(
            temperature=temperature, dtype="float32", kv_cache_gib=0.03, max_sequences=96
        )
        self._folder = folder
        self._steps = itertools.count(1)
        self.model(0).save_pretrained(folder / "model")
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(
            1, mp_context=spawn, initializer=_start, initargs=(self.config, folder)
        )
        self.first_refusal = self.run(_refusal)

    def run(self, scenario: Callable[..., Awaitable[Any]], *args: object):
        return self._pool.submit(_run, scenario, *args).result(timeout=200)

    def stop(self) -> None:
        self._pool.shutdown()

    def model(self, seed: int) -> "LlamaForCausalLM":
        return tiny_llama(seed, tied=self.tied)

    def publish(
        self,
        model: "LlamaForCausalLM",
        *,
        canary_of: "LlamaForCausalLM | None" = None,
        tensors: "Mapping[str, torch.Tensor] | None" = None,
    ) -> Published:
        """Publish a next version, by default the model's weights with its canary."""
        from actors.weights.store import WeightStore

        logprobs = [token_logprobs(canary_of or model, text) for text in CANARY]
        return WeightStore(self._folder / "weights", keep=100).publish(
            PolicyVersion(0, next(self._steps)),
            dict(model.named_parameters()) if tensors is None else tensors,
            Canary(CANARY, tuple(map(tuple, logprobs))),
        )


def _start(config: RolloutConfig, folder: Path) -> None:
    from actors.rollout.engine import engine_environment
    from actors.rollout.vllm_engine import VllmEngine

    os.environ.update(engine_environment(config))
    from actors.rollout.worker import RolloutWorker
    from actors.weights.store import WeightStore

    STATE["loop"] = asyncio.new_event_loop()
    STATE["worker"] = RolloutWorker(
        config,
        WeightStore(folder / "weights"),
        lambda: VllmEngine(config, str(folder / "model"), MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS),
    )


async def _refusal(worker: "RolloutWorker") -> str:
    """Ask for responses, and return why there are none."""
    try:
        await worker.rollout(RolloutRequest((0,), (np.ones(1, np.int32),), 1, 0))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "none"


def _run(scenario: "Callable[[RolloutWorker], Awaitable[Any]]", *args: object):
    return STATE["loop"].run_until_complete(scenario(STATE["worker"], *args))
