import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from actors.errors import WeightMismatchError
from actors.model_files import check_shapes, parameter_shapes


def saved_llama(folder, **settings):
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        **settings,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("tied", [True, False])
def test_shapes_are_those_of_the_loaded_model(tmp_path, tied):
    model = saved_llama(tmp_path, tie_word_embeddings=tied)
    loaded = LlamaForCausalLM.from_pretrained(model)
    shapes = parameter_shapes(model)
    assert shapes == {name: tuple(value.shape) for name, value in loaded.named_parameters()}
    assert ("lm_head.weight" in shapes) is not tied


def test_the_same_shapes_pass_and_every_fault_is_named():
    wanted = {"a": (2, 3), "b": (4,), "c": (1,)}
    check_shapes(wanted, wanted)
    with pytest.raises(WeightMismatchError) as caught:
        check_shapes({"a": (3, 2), "b": (4,), "d": (1,)}, wanted)
    assert str(caught.value) == (
        "these are not the weights of the model: 1 missing: c; 1 unknown: d; "
        "1 of another shape: a (3, 2) instead of (2, 3)"
    )
