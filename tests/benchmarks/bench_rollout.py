"""What the rollout worker costs beside the engine in it: tokens a second, as a ratio.

    python tests/benchmarks/bench_rollout.py --tiny
    python tests/benchmarks/bench_rollout.py --model FOLDER --threads 2

The bare engine is the same vLLM engine with the same options, prompts and seeds, stepped in a loop
as LLM.generate steps it, since a process holds only one. Both give the same tokens, which is
checked, and they take turns, so that a busy machine slows both. The worker is also measured against
vLLM as it is shipped, which counts the rank of each token.
"""
# ruff: noqa: PLC0415

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from actors.config.rollout import RolloutConfig
from actors.messages import Canary, RolloutRequest
from actors.rollout.engine import engine_environment
from actors.rollout.vllm_engine import VllmEngine
from alignment.mdp.trajectories import PolicyVersion


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small random model: overhead shows")
    parser.add_argument("--model", help="folder of a model in Hugging Face format")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--group-size", type=int, default=4)
    parser.add_argument("--response-tokens", type=int, default=28)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    if options.tiny == bool(options.model):
        parser.error("give either --tiny or --model")
    return options


def save_tiny_model(folder):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


async def synced_worker(config, model, options, folder):
    """Publish the model's own weights, with a canary by transformers, and sync them."""
    import torch
    from transformers import AutoModelForCausalLM

    from actors.rollout.worker import RolloutWorker
    from actors.weights.store import WeightStore

    learner = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    ids = torch.arange(10, 26)
    with torch.no_grad():
        logprobs = learner(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    store = WeightStore(Path(folder) / "weights")
    published = store.publish(
        PolicyVersion(0, 1),
        dict(learner.named_parameters()),
        Canary(tuple(ids.tolist()), tuple(logprobs.tolist())),
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
    got = (await worker.rollout(request)).trajectories
    elapsed_s = time.perf_counter() - start_s
    return [got.response(row).tolist() for row in range(len(got))], elapsed_s


async def run_bare(worker, request):
    """Step the bare engine in a loop, in its own thread, as nothing else asks for it meanwhile."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    from actors.rollout.worker import response_seeds

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


async def run_shipped(worker, request):
    """Run the bare engine with the ranks that vLLM counts and the worker leaves out."""
    from vllm.v1.sample import sampler
    from vllm.v1.sample.ops.logprobs import batched_count_greater_than

    left_out = sampler.batched_count_greater_than
    sampler.batched_count_greater_than = batched_count_greater_than
    try:
        return await run_bare(worker, request)
    finally:
        sampler.batched_count_greater_than = left_out


async def measure(worker, options, num_ids):
    rates = {run_worker: [], run_bare: [], run_shipped: []}
    for repetition in range(-1, options.repetitions):  # the first is a warm-up
        rng = np.random.default_rng(repetition + 1)
        prompts = rng.integers(5, num_ids, (options.prompts, options.prompt_tokens))
        request = RolloutRequest(
            tuple(range(options.prompts)),
            tuple(prompts.astype(np.int32)),
            options.group_size,
            repetition + 1,
        )
        found = []
        order = list(rates)
        for run in order[repetition % 3 :] + order[: repetition % 3]:
            await worker._engine._between_steps(worker._engine._engine.reset_prefix_cache)
            responses, elapsed_s = await run(worker, request)
            found.append(responses)
            if repetition >= 0:
                rates[run].append(sum(map(len, responses)) / elapsed_s)
        same = np.mean([len({tuple(r) for r in row}) == 1 for row in zip(*found, strict=True)])
        sys.stdout.write(f"{same:.0%} of the responses are the same in all three\n")
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
    options = arguments()
    config = RolloutConfig(
        dtype=options.dtype, cpus_per_worker=options.threads, max_sequences=128, kv_cache_gib=0.5
    )
    os.environ.update(engine_environment(config))
    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_model(Path(folder) / "model") if options.tiny else options.model
        from transformers import AutoConfig

        num_ids = AutoConfig.from_pretrained(model).vocab_size

        async def run():
            worker = await synced_worker(config, model, options, folder)
            return await measure(worker, options, num_ids)

        report(asyncio.run(run()))


if __name__ == "__main__":
    main()
