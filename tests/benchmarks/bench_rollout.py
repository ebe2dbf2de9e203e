"""Sampling throughput of the rollout worker relative to its bare engine.

    python -m tests.benchmarks.bench_rollout --tiny
    python -m tests.benchmarks.bench_rollout --model FOLDER --threads 2

The bare engine is the vLLM engine of the worker, since a process can hold only one, with the same
options, prompts and seeds, stepped in a loop as LLM.generate does. Both return the same tokens,
which is checked, and they alternate, so that other load on the machine affects both. The worker is
also compared with unpatched vLLM, which counts the rank of each token.
"""

import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind
from vllm.v1.sample import sampler
from vllm.v1.sample.ops.logprobs import batched_count_greater_than

from actors.config.rollout import RolloutConfig
from actors.messages import Canary, RolloutRequest
from actors.rollout.engine import engine_environment
from actors.rollout.vllm_engine import VllmEngine
from actors.rollout.worker import RolloutWorker, response_seeds
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import PolicyVersion
from tests.benchmarks.command_line import add_model_options, make_parser, model_folder


def parse_arguments(scratch):
    """Parse the command line; --tiny writes its model to the scratch folder."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--response-tokens", type=int, default=28)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    options.model = model_folder(parser, options, scratch)
    return options


async def synced_worker(config, model, options, folder):
    """Publish the weights of the model, with a canary computed by transformers, and sync them."""

    learner = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.arange(10, 26)
    with torch.no_grad():
        logprobs = learner(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    store = WeightStore(Path(folder) / "weights")
    published = store.publish(
        PolicyVersion(0, 1),
        dict(learner.named_parameters()),
        Canary((tuple(ids.tolist()),), (tuple(logprobs.tolist()),), 0.05),
    )
    worker = RolloutWorker(
        config,
        store,
        lambda: VllmEngine(config, model, options.prompt_tokens, options.response_tokens),
    )
    start_s = time.perf_counter()
    await worker.sync_weights(published)
    sys.stdout.write(f"first sync {time.perf_counter() - start_s:.2f} s\n")
    return worker


async def run_worker(worker, request):
    start_s = time.perf_counter()
    responses = (await worker.rollout(request)).trajectories
    elapsed_s = time.perf_counter() - start_s
    return [responses.response(row).tolist() for row in range(len(responses))], elapsed_s


async def run_bare(worker, request):
    """Step the bare engine in a loop, in its own thread, without other requests."""

    engine = worker._engine
    llm_engine = engine._engine
    responses, elapsed_s = {}, 0.0

    def generate():
        nonlocal elapsed_s
        start_s = time.perf_counter()
        rows = [p.tolist() for p in request.prompts for _ in range(request.group_size)]
        seeds = response_seeds(request.seed, len(rows))
        for row, (prompt, seed) in enumerate(zip(rows, seeds, strict=True)):
            params = SamplingParams(
                **engine._sampling,
                seed=seed,
                detokenize=False,
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            llm_engine.add_request(str(row), {"prompt_token_ids": prompt}, params)
        while llm_engine.has_unfinished_requests():
            for output in llm_engine.step():
                responses[int(output.request_id)] = list(output.outputs[0].token_ids)
        elapsed_s = time.perf_counter() - start_s

    await engine._between_steps(generate)
    return [responses[row] for row in sorted(responses)], elapsed_s


async def run_unpatched(worker, request):
    """Run the bare engine with the count of ranks, which the worker disables."""

    patched = sampler.batched_count_greater_than
    sampler.batched_count_greater_than = batched_count_greater_than
    try:
        return await run_bare(worker, request)
    finally:
        sampler.batched_count_greater_than = patched


async def measure(worker, options, num_ids):
    rates = {run_worker: [], run_bare: [], run_unpatched: []}
    for repetition in range(-1, options.repetitions):  # the first is a warm-up
        rng = np.random.default_rng(repetition + 1)
        prompts = rng.integers(5, num_ids, (options.prompts, options.prompt_tokens))
        request = RolloutRequest(
            tuple(range(options.prompts)),
            tuple(prompts.astype(np.int32)),
            options.group_size,
            repetition + 1,
        )
        all_responses = []
        order = list(rates)
        for run in order[repetition % 3 :] + order[: repetition % 3]:
            await worker._engine._between_steps(worker._engine._engine.reset_prefix_cache)
            responses, elapsed_s = await run(worker, request)
            all_responses.append(responses)
            if repetition >= 0:
                rates[run].append(sum(map(len, responses)) / elapsed_s)
        same = np.mean(
            [len({tuple(r) for r in row}) == 1 for row in zip(*all_responses, strict=True)]
        )
        sys.stdout.write(f"{same:.0%} of the responses are equal in all three\n")
    return rates


def report(rates):
    worker = rates[run_worker]
    for run, measured in rates.items():
        ratios = [mine / other for mine, other in zip(worker, measured, strict=True)]
        sys.stdout.write(
            f"{run.__name__:12} {statistics.median(measured):9.0f} tok/s   worker is "
            f"{statistics.median(ratios):.3f} of it ({min(ratios):.3f} to {max(ratios):.3f})\n"
        )


def main():
    with tempfile.TemporaryDirectory() as folder:
        options = parse_arguments(folder)
        config = RolloutConfig(
            dtype=options.dtype,
            cpus_per_worker=options.threads,
            max_sequences=128,
            kv_cache_gib=0.5,
        )
        os.environ.update(engine_environment(config))
        model = options.model

        num_ids = AutoConfig.from_pretrained(model).vocab_size

        async def run():
            worker = await synced_worker(config, model, options, folder)
            return await measure(worker, options, num_ids)

        report(asyncio.run(run()))


if __name__ == "__main__":
    main()
