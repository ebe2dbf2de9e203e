"""The shape of a model and the memory of a worker, by hand and against a real model."""

import json
import math

import pytest
import torch

from actors.config.learner import LearnerConfig
from actors.config.rollout import RolloutConfig
from actors.config.scorers import DiscriminatorConfig
from actors.errors import InvalidInputError
from alignment.mdp.packing import microbatches
from alignment.mdp.trajectories import pack
from alignment.models.policy import load_policy
from cluster.resources.memory import (
    CONTEXT_GIB,
    ENGINE_GIB,
    GIB,
    PROCESS_GIB,
    activation_bytes,
    discriminator_memory,
    key_value_bytes,
    learner_memory,
    rollout_memory,
    teacher_memory,
)
from cluster.resources.model_files import shape_of_files
from cluster.resources.model_shape import ModelShape, shape_of_config, shape_of_parameters
from tests.fakes.tiny_llama import save_tiny_llama

LLAMA_2_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "intermediate_size": 11008,
    "vocab_size": 32000,
}
LLAMA_3_8B = LLAMA_2_7B | {
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}
SMALL = ModelShape(1000, 4, 10, 50, 5, 30, 1)


def shape_of(folder, config):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return shape_of_files(str(folder))


def test_parameters_of_published_models_are_counted_from_their_configuration(tmp_path):
    assert shape_of(tmp_path / "2", LLAMA_2_7B).num_parameters == 6_738_415_616
    assert shape_of(tmp_path / "3", LLAMA_3_8B).num_parameters == 8_030_261_248
    # Llama 3: 2 x 32 layers x 8 heads x 128, at 2 bytes
    assert key_value_bytes(shape_of_files(str(tmp_path / "3"))) == 131_072


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_counted_are_those_of_the_model(tmp_path, tied):
    model = load_policy(save_tiny_llama(tmp_path / "whole", tied=tied))
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    count = sum(parameter.numel() for parameter in model.parameters())
    assert shape_of(tmp_path / "config only", config).num_parameters == count
    assert shape_of_files(str(tmp_path / "whole")).num_parameters == count


def test_what_is_no_dense_decoder_is_refused_with_a_remedy(tmp_path):
    with pytest.raises(InvalidInputError, match="mixture of experts"):
        shape_of(tmp_path, LLAMA_2_7B | {"num_local_experts": 8})
    with pytest.raises(InvalidInputError, match="does not set hidden_size, num_hidden_layers, "):
        shape_of(tmp_path, {"n_embd": 768})
    with pytest.raises(InvalidInputError, match="does not describe a decoder"):
        shape_of(tmp_path, LLAMA_2_7B | {"hidden_size": "wide"})
    with pytest.raises(InvalidInputError, match=r"no model folder \./gone"):
        shape_of_files("./gone")


def test_older_architectures_name_their_sizes_otherwise():
    gpt_2 = {"n_embd": 768, "n_layer": 12, "n_head": 12, "vocab_size": 50257}
    shape = shape_of_config(gpt_2 | {"tie_word_embeddings": True}, num_parameters=124_439_808)
    assert shape == ModelShape(124_439_808, 12, 768, 50257, 768, 4 * 768, 1)


def test_a_guessed_shape_has_the_parameters_asked_for_and_fits_into_them():
    shape = shape_of_parameters(7e9)
    assert (shape.num_parameters, shape.num_layers, shape.hidden_size) == (7 * 10**9, 31, 3968)
    guessed = 12 * 31 * 3968**2 + shape.table_parameters
    assert guessed <= 7e9 < 12 * 32 * 4096**2 + 2 * 128_256 * 4096
    with pytest.raises(InvalidInputError, match=r"at least 3\.3e\+07"):
        shape_of_parameters(1e7)
    with pytest.raises(InvalidInputError, match="nan"):
        shape_of_parameters(math.nan)


def test_the_discriminator_keeps_embeddings_and_its_share_of_the_layers():
    # 1000 parameters, of which 50 x 10 are the table; half of the layers hold 250.
    assert SMALL.first_layers(2).num_parameters == 750
    assert SMALL._replace(num_tables=2, num_parameters=1500).first_layers(None) == SMALL


def bytes_of(memory):
    return {name: pytest.approx(gib * GIB) for name, gib in memory.parts_gib.items()}


@pytest.mark.parametrize(
    ("device", "own", "chunk"),
    [
        ("gpu", {"context": CONTEXT_GIB * GIB}, 2**26),
        ("cpu", {"process": PROCESS_GIB * GIB}, 2**22),
    ],
)
def test_memory_by_hand(device, own, chunk):
    config, backbone = LearnerConfig(max_tokens_per_microbatch=100), SMALL.first_layers(2)
    rank = learner_memory(config, SMALL, 2, device, num_copies=1)
    assert bytes_of(rank) == own | {
        "state": 20 * 1000 / 2,
        "casts": 2 * 1000,  # whole, on every rank
        "gathered": 4 * (2 * 500 + 3 * 125),
        "activations": 100 * 4 * (36 * 10 + 8 * 5 + 8 * 30),
        "logits": 10 * chunk,
    }
    assert rank.gib == pytest.approx(sum(rank.parts_gib.values()))
    wide = LearnerConfig(max_tokens_per_microbatch=100, autocast="float32")
    alone = learner_memory(wide, SMALL, 1, device, num_copies=0)
    assert bytes_of(alone) == own | {
        "state": 16 * 1000,
        "activations": 2 * 100 * 4 * (36 * 10 + 8 * 5 + 8 * 30),
        "logits": 10 * chunk,
    }
    full = discriminator_memory(DiscriminatorConfig(), config, backbone, device)
    assert bytes_of(full) == own | {
        "state": 4 * 500 + 16 * 250,
        "casts": 2 * 250,
        "activations": 100 * 2 * (36 * 10 + 8 * 5 + 8 * 30),
    }
    ranks = discriminator_memory(DiscriminatorConfig(), config, backbone, device, num_ranks=2)
    assert bytes_of(ranks)["state"] == (4 * 500 + 16 * 250) / 2
    assert bytes_of(ranks)["gathered"] == 4 * (2 * 500 + 3 * 125)
    lora = discriminator_memory(DiscriminatorConfig(tuning="lora"), config, backbone, device)
    assert bytes_of(lora)["state"] == 4 * 750
    frozen = discriminator_memory(DiscriminatorConfig(tuning="frozen"), config, backbone, device)
    assert bytes_of(frozen) == own | {"state": 4 * 750}
    assert bytes_of(teacher_memory(SMALL, device)) == own | {"state": 4000, "logits": 10 * chunk}


def test_new_weights_of_an_engine_arrive_by_tensor_on_a_gpu_and_whole_in_host_memory():
    config = RolloutConfig(kv_cache_gib=3.0, max_sequences=8)
    fixed = {"cache": 3.0 * GIB, "sampler": 12 * 8 * 50}
    gpu = {
        "weights": 2 * (1000 + 50 * 10),
        "engine": ENGINE_GIB * GIB,
        "context": CONTEXT_GIB * GIB,
    }
    assert bytes_of(rollout_memory(config, SMALL, "gpu")) == fixed | gpu
    cpu = {"weights": 2 * 2 * 1000, "process": PROCESS_GIB * GIB}
    assert bytes_of(rollout_memory(config, SMALL, "cpu")) == fixed | cpu


def test_activations_and_casts_are_what_autograd_keeps(tmp_path):
    model = load_policy(save_tiny_llama(tmp_path, num_layers=4))
    matrices = {tuple(p.shape) for p in model.parameters() if p.ndim == 2}
    matrices |= {shape[::-1] for shape in matrices}
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def kept_bytes(num_tokens):
        kept = {}

        def keep(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in known:
                kept[storage.data_ptr()] = (tensor, storage.nbytes())
            return tensor

        (batch,) = microbatches(pack([1] * 4, [5] * (num_tokens - 4), prompt_id=0), num_tokens)
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu", torch.bfloat16),
        ):
            model(batch, 1.0)
        casts = sum(nbytes for tensor, nbytes in kept.values() if tuple(tensor.shape) in matrices)
        return casts, sum(nbytes for _, nbytes in kept.values())

    (casts, few), (_, many) = kept_bytes(1000), kept_bytes(3000)
    shape = shape_of_files(str(tmp_path))
    # Beside the layers a token has its states before and after the last norm, and its rotations.
    assert (many - few) / 2000 == pytest.approx(activation_bytes(shape), rel=0.1)
    assert casts == pytest.approx(2 * shape.num_parameters, rel=0.02)
