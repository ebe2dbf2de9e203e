"""False alarms and misses of the canary, over random texts, precisions, updates and faults.

    python -m tests.benchmarks.canary_errors tiny-llama tiny-qwen3
    python -m tests.benchmarks.canary_errors --fault-texts 64 --rates 1e-4 --data FILE FOLDER

The engine is transformers at the engine's precision, with wrong weights planted. An update is one
AdamW step on texts of the canary, with moments of three steps before it. The effect of a fault is
its difference without rounding, in units of the rounding that the learner measures (0.00025 nats
in float32, a quarter of the bound). A canary is eight texts of 16 tokens.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

from actors.rollout.canary_check import ROUNDING_FACTOR, canary_bound, read_canary
from actors.weights.canary import NUM_TEXTS, TEXT_TOKENS, score_canary
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import concatenate, pack
from alignment.models.policy import load_policy
from tests.fakes.planted_faults import STALE, WRONG, StandInEngine, published
from tests.fakes.tiny_llama import save_tiny_llama

RATES = (1e-3, 1e-4, 1e-5)
CPU = torch.device("cpu")
SURE_EFFECT = 6.0
"""Roundings above which every fault must be caught: four are the bound, two those of the engine."""


def save_tiny_qwen3(folder):
    """Norms of queries and keys, biases, and a head of its own."""
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        attention_bias=True,
        tie_word_embeddings=False,
        initializer_range=0.1,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    return str(folder)


TINY = {"tiny-llama": save_tiny_llama, "tiny-qwen3": save_tiny_qwen3}


def random_texts(vocab_size, number, seed):
    tokens = np.random.default_rng(seed).integers(3, vocab_size, (number, TEXT_TOKENS))
    return tuple(map(tuple, tokens.tolist()))


def texts_of_file(folder, path, number):
    """The last tokens of the rows of a file of demonstrations."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with open(path) as file:
        rows = [json.loads(line) for line in file]
    ids = (tokenizer(row["prompt"] + "\n" + row["response"])["input_ids"] for row in rows)
    texts = [tuple(each[-TEXT_TOKENS:]) for each in ids if len(each) >= TEXT_TOKENS]
    return tuple(dict.fromkeys(texts))[:number]


def update(policy, texts, rate):
    """One step of AdamW at this rate, with moments."""
    optimizer = torch.optim.AdamW(policy.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    packed = [pack([t[0]], t[1:], prompt_id=row) for row, t in enumerate(texts)]
    for each in (0.0, 0.0, 0.0, rate):
        optimizer.param_groups[0]["lr"] = each
        (batch,) = microbatches(concatenate(packed), TEXT_TOKENS * len(texts))
        policy(batch, 1.0)[0].logprobs.mean().neg().backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def canaries(policy, texts, dtype):
    groups = [texts[i : i + NUM_TEXTS] for i in range(0, len(texts), NUM_TEXTS)]
    return [score_canary(policy, group, CPU, dtype) for group in groups]


def in_groups(scores):
    return [scores[i : i + NUM_TEXTS] for i in range(0, len(scores), NUM_TEXTS)]


def differences(scores, some):
    """Of each canary the median over its texts, as the canary itself is read."""
    return [
        statistics.median(
            float(np.abs(np.subtract(*pair)).mean())
            for pair in zip(group, canary.logprobs, strict=True)
        )
        for group, canary in zip(in_groups(scores), some, strict=False)
    ]


class Outcome(NamedTuple):
    """Of one fault, or of healthy weights if there is none: one value for each canary."""

    rate: float
    fault: Callable | None
    readings: list
    effects: list[float]
    """Difference in float32, in roundings."""

    @property
    def num_rejected(self):
        return sum(reading.problem is not None for reading in self.readings)

    def missed_above(self, effect):
        """Number of canaries with a larger effect, and how many of them were missed."""
        pairs = zip(self.readings, self.effects, strict=True)
        problems = [reading.problem for reading, found in pairs if found > effect]
        return len(problems), problems.count(None)


def measure(folder, texts, dtype, rates=RATES, faults=STALE + WRONG, num_fault_texts=None):
    """Yield an outcome for healthy weights and for each fault, at each rate."""
    engine, exact = StandInEngine(folder, dtype), StandInEngine(folder, "float32")
    for rate in rates:
        policy = load_policy(folder)
        old, before = published(policy, dtype), canaries(policy, texts, dtype)
        update(policy, texts[:16], rate)
        new, now = published(policy, dtype), canaries(policy, texts, dtype)
        units = [canary_bound(dtype, canary.rounding_nats) / ROUNDING_FACTOR for canary in now]
        engine.load(old)
        scores_before = in_groups(engine.scores(texts))
        for fault in (None, *faults):
            some = texts if fault is None else texts[:num_fault_texts]
            weights = new if fault is None else fault(old, new)
            engine.load(weights)
            scores = engine.scores(some)
            readings = [
                read_canary(canary, mine, dtype, (earlier, mine_before))
                for canary, mine, earlier, mine_before in zip(
                    now, in_groups(scores), before, scores_before, strict=False
                )
            ]
            exact.load(weights)
            effects = differences(exact.scores(some) if fault else scores, now)
            yield Outcome(
                rate, fault, readings, [e / unit for e, unit in zip(effects, units, strict=False)]
            )


def report(name, folder, texts, options):
    for dtype in options.dtype:
        for outcome in measure(
            folder, texts, dtype, options.rates, num_fault_texts=options.fault_texts
        ):
            what = "healthy" if outcome.fault is None else outcome.fault.__name__
            large, missed = outcome.missed_above(SURE_EFFECT)
            near = sum(reading.note is not None for reading in outcome.readings)
            effects = outcome.effects
            sys.stdout.write(
                f"{name:11} {dtype:8} rate {outcome.rate:.0e} {what:18} "
                f"rejected {outcome.num_rejected:3} of {len(effects):3}, near the bound {near:3}; "
                f"effect {min(effects):7.2f} to {max(effects):7.2f} roundings, above "
                f"{SURE_EFFECT:.0f}: {missed} missed of {large}\n"
            )
            sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="folders, tiny-llama or tiny-qwen3")
    parser.add_argument("--texts", type=int, default=304)
    parser.add_argument("--fault-texts", type=int, help="of them for each fault; default all")
    parser.add_argument("--data", help="JSON lines with prompt and response; random tokens if none")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.models:
            folder = TINY[name](Path(scratch) / name) if name in TINY else name
            if options.data:
                texts = texts_of_file(folder, options.data, options.texts)
            else:
                vocab_size = load_policy(folder).model.config.vocab_size
                texts = random_texts(vocab_size, options.texts, 0)
            report(Path(name).name[:11], folder, texts, options)


if __name__ == "__main__":
    main()
