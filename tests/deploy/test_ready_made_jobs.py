"""The job files for machines of each size pass the check, and their models fit what they name."""

import json
import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from actors.errors import InvalidInputError
from cluster import preflight
from cluster.job_file import load_job
from cluster.placement import ACTIVATIONS_PER_LAYER, TRAINED_BYTES
from tests.fakes.tiny_job import save_tiny_tokenizer

FOLDER = Path(__file__).parents[2] / "deploy" / "runs"
GB = 1e9


class Architecture(NamedTuple):
    """What a model's own files say."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    vocab_size: int
    num_key_value_heads: int
    head_size: int
    ties_embeddings: bool

    @property
    def cache_bytes_a_token(self):
        return 2 * 2 * self.num_layers * self.num_key_value_heads * self.head_size

    @property
    def embedding(self):
        return self.vocab_size * self.hidden_size

    @property
    def a_layer(self):
        tables = self.embedding * (1 if self.ties_embeddings else 2)
        return (self.num_parameters - tables) / self.num_layers


MODELS = {
    "laptop": Architecture(134_515_008, 30, 576, 49_152, 3, 64, ties_embeddings=True),
    "one_gpu": Architecture(1_711_376_384, 24, 2048, 49_152, 32, 64, ties_embeddings=True),
    "eight_gpus": Architecture(7_615_616_512, 28, 3584, 152_064, 4, 128, ties_embeddings=False),
    "sixty_four_gpus": Architecture(
        32_763_876_352, 64, 5120, 152_064, 8, 128, ties_embeddings=False
    ),
}
CLUSTERS = {
    "laptop": {"CPU": 2.0, "memory": 12.0 * 2**30},
    "one_gpu": {"CPU": 8.0, "GPU": 1.0, "memory": 64.0 * 2**30},
    "eight_gpus": {"CPU": 64.0, "GPU": 8.0, "memory": 1500.0 * 2**30},
    "sixty_four_gpus": {"CPU": 512.0, "GPU": 64.0, "memory": 8 * 1500.0 * 2**30},
}
GPU_GB = 80
NAMES = list(MODELS)
ON_GPUS = NAMES[1:]


@pytest.fixture
def pretend(tmp_path):
    """Return a function that loads a job whose model has the real one's sizes and no weights."""

    def load(name):
        size = MODELS[name]
        save_tiny_tokenizer(tmp_path)
        config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "num_hidden_layers": size.num_layers,
            "hidden_size": size.hidden_size,
            "vocab_size": size.vocab_size,
            "max_position_embeddings": 8192,
        }
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": 1}))
        tensor = {"dtype": "F32", "shape": [size.num_parameters], "data_offsets": [0, 0]}
        header = json.dumps({"weights": tensor}).encode()
        weights = struct.pack("<Q", len(header)) + header
        (tmp_path / "model.safetensors").write_bytes(weights)
        rows = [json.dumps({"prompt": f"a {i}", "response": "b c"}) for i in range(200)]
        (tmp_path / "demonstrations.jsonl").write_text("\n".join(rows))
        return load_job(
            FOLDER / f"{name}.yaml",
            [f"model.name={tmp_path}", f"data.path={tmp_path / 'demonstrations.jsonl'}"],
        )

    return load


@pytest.mark.parametrize("name", NAMES)
def test_the_job_passes_the_check_on_the_machines_it_names(pretend, name):
    found = preflight.check(pretend(name), None, CLUSTERS[name])
    assert found.model.size[:4] == MODELS[name][:4]
    wanted = sum(worker.num_workers * worker.gpus for worker in found.plan.workers)
    assert wanted == CLUSTERS[name].get("GPU", 0)  # all that there are
    assert found.caveat is None


@pytest.mark.parametrize("name", ON_GPUS)
def test_the_job_is_refused_with_one_gpu_fewer(pretend, name):
    fewer = CLUSTERS[name] | {"GPU": CLUSTERS[name]["GPU"] - 1}
    with pytest.raises(InvalidInputError, match=r"lower learner\.gpus_per_rank, rollout\.gpus_per"):
        preflight.check(pretend(name), None, fewer)


def test_models_are_named_by_hub_name_and_data_lie_beside_the_file():
    for name in NAMES:
        job = load_job(FOLDER / f"{name}.yaml")
        assert job.name == name.replace("_", "-")
        assert job.data.path == FOLDER / "demonstrations.jsonl"
        assert job.model.name.count("/") == 1
        assert not job.model.name.startswith((".", "/"))


def activations(tokens, num_layers, size):
    return tokens * num_layers * ACTIVATIONS_PER_LAYER * size.hidden_size


def on_each_gpu(name):
    """Return the GB that each kind of worker takes of a GPU, as the job files' comments do."""
    job, size = load_job(FOLDER / f"{name}.yaml"), MODELS[name]
    tokens, ranks = job.learner.max_tokens_per_microbatch, job.learner.num_ranks
    state = (TRAINED_BYTES + 4) * size.num_parameters / ranks  # the last 4 are the reference policy
    gathered = 4 * (2 * size.embedding + size.a_layer) if ranks > 1 else 0
    layers = job.discriminator.num_layers
    judge = size.embedding + layers * size.a_layer
    return {
        "state": state / GB,
        "gathered": gathered / GB,
        "activations": activations(tokens, size.num_layers, size) / GB,
        "rollout": (2 * size.num_parameters + job.rollout.kv_cache_gib * 2**30) / GB,
        "discriminator": judge * (TRAINED_BYTES if job.discriminator.tuning == "full" else 4) / GB,
        "its activations": activations(tokens, layers, size) / GB,
    }


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("one_gpu", [34, 0, 8, 12, 8, 2]),
        ("eight_gpus", [38, 5, 25, 32, 35, 6]),
        ("sixty_four_gpus", [27, 8, 34, 76, 34, 8]),
    ],
)
def test_the_memory_that_the_comments_work_out_is_right_and_fits_a_gpu(name, gigabytes):
    taken = on_each_gpu(name)
    assert [round(each) for each in taken.values()] == gigabytes
    learner = taken["state"] + taken["gathered"] + taken["activations"]
    discriminator = taken["discriminator"] + taken["its activations"]
    if name == "one_gpu":
        assert learner + taken["rollout"] + discriminator < GPU_GB
    else:
        assert max(learner, taken["rollout"], discriminator) < GPU_GB


@pytest.mark.parametrize(
    ("name", "bytes_a_token", "full_conversations"),
    [
        ("laptop", 23_040, 60),
        ("one_gpu", 196_608, 42),
        ("eight_gpus", 57_344, 292),
        ("sixty_four_gpus", 262_144, 40),
    ],
)
def test_the_cache_holds_as_many_conversations_as_the_comments_say(
    name, bytes_a_token, full_conversations
):
    job, size = load_job(FOLDER / f"{name}.yaml"), MODELS[name]
    assert size.cache_bytes_a_token == bytes_a_token
    tokens = job.rollout.kv_cache_gib * 2**30 / bytes_a_token
    longest = job.data.max_prompt_tokens + job.data.max_response_tokens
    assert int(tokens / longest) == full_conversations


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_and_its_responses_fit_a_microbatch_and_data_are_the_users(name):
    job = load_job(FOLDER / f"{name}.yaml")
    group = job.data.max_prompt_tokens + job.objective.group_size * job.data.max_response_tokens
    expected = {"laptop": 384, "one_gpu": 2560, "eight_gpus": 4608, "sixty_four_gpus": 2560}
    assert group == expected[name] <= job.learner.max_tokens_per_microbatch
