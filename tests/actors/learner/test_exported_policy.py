"""A checkpoint's policy in vLLM as others start it: weights, end tokens and sampling settings."""

import json
import os
import subprocess
import sys

import pytest
import torch

from actors.learner.checkpoint import export_policy
from alignment.models.policy import PolicyModel
from tests.actors.rollout.engine_process import CANARY, END_TOKEN_IDS, tiny_llama, token_logprobs
from tests.fakes.tiny_job import save_tiny_tokenizer

pytestmark = pytest.mark.vllm
SERVE = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.sampling_params import RequestOutputKind
llm = LLM(sys.argv[1], dtype="float32", enforce_eager=True, max_model_len=64,
          skip_tokenizer_init=True, kv_cache_memory_bytes=2**25)
defaults = llm.get_default_sampling_params()
ids = json.loads(sys.argv[2])
params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
(output,) = llm.generate([{"prompt_token_ids": ids}], params)
logprobs = [entry[i].logprob for i, entry in zip(ids[1:], output.prompt_logprobs[1:])]
print(json.dumps({"logprobs": logprobs, "temperature": defaults.temperature,
                  "top_k": defaults.top_k, "top_p": defaults.top_p}))
"""


def test_vllm_serves_what_was_exported(tmp_path):
    save_tiny_tokenizer(tmp_path / "source")
    model, folder = tiny_llama(3, tied=True), tmp_path / "policy"
    policy = PolicyModel(model)
    with torch.no_grad():  # other weights than those that a seed gives
        model.model.norm.weight.mul_(1.5)
    export_policy(folder, policy, source=str(tmp_path / "source"), temperature=0.7, rank=0)
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "TORCHDYNAMO_DISABLE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", SERVE, str(folder), json.dumps(CANARY[0])],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["logprobs"] == pytest.approx(token_logprobs(model, CANARY[0]), abs=1e-4)
    assert (found["temperature"], found["top_p"]) == (0.7, 1.0)
    assert found["top_k"] in {0, -1}  # both are off
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == (
        END_TOKEN_IDS
    )
