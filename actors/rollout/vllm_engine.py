"""vLLM in this process.

A thread of its own steps the engine. All other calls to the engine wait in a queue for that thread
and run between two steps, so a weight update never splits a step. A process can hold one engine in
its lifetime: a second one breaks the first (vLLM 0.32).
"""

import asyncio
import functools
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
import torch
from numpy.typing import NDArray
from vllm import EngineArgs, RequestOutput, SamplingParams
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.llm_engine import LLMEngine

from actors.config.rollout import RolloutConfig
from actors.model_files import check_shapes, parameter_shapes
from actors.rollout.engine import EngineFailedError, SampledResponse, check_prompt
from actors.rollout.vllm_patches import leave_out_token_ranks, repack_heads, undo_unfinished_reload
from alignment.data.chat_template import end_token_ids
from alignment.mdp.trajectories import FinishReason, PolicyVersion

logger = logging.getLogger(__name__)
GPU_MEMORY = 0.9
"""Fraction of the engine's part of a GPU that must be free when it starts; the CUDA driver needs
the rest."""
CPU_BLOCK_TOKENS = 32
"""Block size in which prefixes are shared on the CPU. With vLLM's default of 128 no shorter prompt
would be shared, and its CPU kernels accept only multiples of 32."""
_FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class VllmEngine:
    """An InferenceEngine that no request can leave unusable.

    Prompts on which vLLM would fail are refused. A failed step fails the requests in flight, and
    only those. After a failed weight update the engine refuses to sample until the next one.
    """

    def __init__(
        self, config: RolloutConfig, model: str, max_prompt_tokens: int, max_response_tokens: int
    ) -> None:
        """Load the model, and start the thread that steps the engine.

        Args:
            model: folder or hub name; its weights are not sampled from before the first update.
        """
        self._on_cpu = on_cpu = current_platform.is_cpu()
        if on_cpu:
            leave_out_token_ranks()
        self._engine = LLMEngine.from_engine_args(
            EngineArgs(
                model=model,
                dtype=config.dtype,
                max_model_len=max_prompt_tokens + max_response_tokens,
                max_num_seqs=config.max_sequences,
                gpu_memory_utilization=GPU_MEMORY * min(config.gpus_per_worker or 1.0, 1.0),
                kv_cache_memory_bytes=int(config.kv_cache_gib * 2**30),
                block_size=CPU_BLOCK_TOKENS if on_cpu else None,
                enforce_eager=on_cpu,  # compilation takes a minute on the CPU and gains little
                enable_prefix_caching=True,
                # A prompt in two chunks rewinds its random generator, which fails on the CPU.
                enable_chunked_prefill=not on_cpu,
                skip_tokenizer_init=True,
                generation_config="vllm",  # not the model's own temperature, top_p and so on
                logprobs_mode="processed_logprobs",  # of the distribution that is sampled from
                disable_log_stats=True,
            )
        )
        self._sampling = {
            "temperature": config.temperature,
            "max_tokens": max_response_tokens,
            "stop_token_ids": end_token_ids(model),
            "ignore_eos": True,  # the ids above are the end tokens, and no others
            "logprobs": 0,  # of the sampled token alone
            "flat_logprobs": True,
        }
        self._max_prompt_tokens = max_prompt_tokens
        self._num_tokens = self._engine.model_config.get_vocab_size()
        self._shapes = parameter_shapes(model)
        self._refusal: str | None = "it was given no published weights yet"
        self._policy_version: PolicyVersion | None = None
        self._num_steps = 0
        self._request_numbers = itertools.count()
        self._in_flight: dict[str, Future[RequestOutput]] = {}
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="vllm-engine", daemon=True).start()

    @property
    def policy_version(self) -> PolicyVersion | None:
        """Version of the weights that it serves; None if there are none, or they were rejected."""
        return self._policy_version

    async def sample(
        self,
        prompts: Sequence[NDArray[np.int32]],
        seeds: Sequence[int],
        temperature: float | None = None,
    ) -> list[SampledResponse]:
        """Sample one response for each prompt; all start in the same step."""
        chosen = {} if temperature is None else {"temperature": temperature}
        for prompt in prompts:
            check_prompt(
                prompt, num_tokens=self._num_tokens, max_prompt_tokens=self._max_prompt_tokens
            )
        requests = [
            (
                prompt.tolist(),
                SamplingParams(
                    **(self._sampling | chosen),
                    seed=seed,
                    detokenize=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                ),
            )
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        return [_sampled_response(output) for output in await self._generate(requests)]

    async def prompt_logprobs(self, token_ids: Sequence[int]) -> list[float]:
        """Return the log-probability of each token after the first, at temperature 1."""
        ids = list(token_ids)
        limit = self._engine.model_config.max_model_len - 1  # vLLM always samples a token
        check_prompt(
            np.asarray(ids, np.int32), num_tokens=self._num_tokens, max_prompt_tokens=limit
        )
        # vLLM ignores the temperature for prompts; 0 saves the random draw of the sampled token.
        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = await self._generate([(ids, params)])
        entries = zip(ids[1:], output.prompt_logprobs[1:], strict=True)
        return [entry[token_id].logprob for token_id, entry in entries]

    async def update_weights(
        self, tensors: Mapping[str, torch.Tensor], version: PolicyVersion
    ) -> None:
        """Replace all weights between two steps; keys and values are recomputed."""
        check_shapes({name: tensor.shape for name, tensor in tensors.items()}, self._shapes)
        await self._between_steps(functools.partial(self._swap_weights, tensors, version))

    async def reject_weights(self, reason: str) -> None:
        """Fail the requests in flight, and refuse to sample until the next update."""
        await self._between_steps(functools.partial(self._refuse, reason))

    async def _generate(
        self, requests: Sequence[tuple[list[int], SamplingParams]]
    ) -> list[RequestOutput]:
        """Run requests to their ends; if one fails or the caller is cancelled, abort the rest."""
        futures: dict[str, Future[RequestOutput]] = {
            str(next(self._request_numbers)): Future() for _ in requests
        }
        self._calls.put(functools.partial(self._add, futures, requests))
        try:
            return await asyncio.gather(*map(asyncio.wrap_future, futures.values()))
        except BaseException:
            abandoned = EngineFailedError("the request was cancelled")
            self._calls.put(functools.partial(self._abort, list(futures), abandoned))
            raise

    async def _between_steps(self, act: Callable[[], None]) -> None:
        """Run a function in the engine's thread, between two steps."""
        future: Future[None] = Future()

        def call() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    act()
                    future.set_result(None)
                except Exception as error:
                    future.set_exception(error)

        self._calls.put(call)
        await asyncio.wrap_future(future)

    # The methods from here on run in the engine's thread.

    def _run(self) -> None:
        """Step while there are requests; before each step, run the queued calls."""
        while True:
            try:
                call = self._calls.get(block=not self._engine.has_unfinished_requests())
            except queue.Empty:
                call = self._step
            try:
                call()
            except Exception as error:  # vLLM cannot serve the running requests after this
                logger.exception("step %d failed", self._num_steps)
                self._abort_all(EngineFailedError(f"an engine step failed: {error!r}"))

    def _step(self) -> None:
        for output in self._engine.step():
            if output.finished:
                self._in_flight.pop(output.request_id).set_result(output)
        self._num_steps += 1

    def _add(
        self,
        futures: Mapping[str, Future[RequestOutput]],
        requests: Sequence[tuple[list[int], SamplingParams]],
    ) -> None:
        if not all(future.set_running_or_notify_cancel() for future in futures.values()):
            return  # the caller was cancelled
        self._in_flight.update(futures)
        try:
            if self._refusal is not None:
                raise EngineFailedError(f"the engine refuses to sample: {self._refusal}")
            for request_id, (prompt, params) in zip(futures, requests, strict=True):
                self._engine.add_request(request_id, {"prompt_token_ids": prompt}, params)
        except Exception as error:
            self._abort(list(futures), error)

    def _abort(self, request_ids: Sequence[str], error: Exception) -> None:
        """Fail those of these requests that are still in flight."""
        in_flight = [request_id for request_id in request_ids if request_id in self._in_flight]
        for request_id in in_flight:
            self._in_flight.pop(request_id).set_exception(error)
        self._engine.abort_request(in_flight)

    def _abort_all(self, error: Exception) -> None:
        """Fail all requests in flight, and remove everything else that the engine may hold."""
        self._abort(list(self._in_flight), error)
        self._engine.abort_request(list(self._engine.output_processor.request_states), True)
        # A failed step may have marked prefixes as cached that it never computed.
        self._engine.reset_prefix_cache(reset_running_requests=True)

    def _refuse(self, reason: str) -> None:
        self._refusal = reason
        self._policy_version = None
        self._abort_all(EngineFailedError(reason))

    def _swap_weights(self, tensors: Mapping[str, torch.Tensor], version: PolicyVersion) -> None:
        try:
            self._engine.apply_model(undo_unfinished_reload)
            self._engine.collective_rpc("reload_weights", args=(iter(tensors.items()),))
            if self._on_cpu:
                self._engine.apply_model(repack_heads)
            self._engine.reset_prefix_cache(reset_running_requests=True)
        except Exception as error:
            self._refuse(f"its update to weights {version} failed: {error!r}")
            raise EngineFailedError(f"the update to weights {version} failed") from error
        self._engine.set_weight_version(f"{version.attempt}.{version.step}")
        self._policy_version = version
        self._refusal = None


def _sampled_response(output: RequestOutput) -> SampledResponse:
    """Convert vLLM's output; its weight_versions are spans of tokens."""
    completion = output.outputs[0]
    spans = [
        (PolicyVersion(*map(int, span.version.split("."))), span.end - span.start)
        for span in completion.weight_versions
    ]
    return SampledResponse(
        token_ids=completion.token_ids,
        logprobs=completion.logprobs.logprobs,
        finish_reason=_FINISH_REASONS[completion.finish_reason],
        policy_versions=[version for version, count in spans for _ in range(count)],
    )
