"""Refuses models that would train on wrong log-probabilities or that no engine could serve."""

from transformers import AutoConfig, PretrainedConfig

from actors.errors import InvalidInputError
from alignment.models.architecture_check import check_architecture
from cluster.config.run_config import RunConfig

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""Sizes of an attention head that vLLM 0.32 computes on a CPU."""


def check_model_architectures(config: RunConfig) -> None:
    """Refuse a policy or teacher whose architecture cannot be trained, scored or served.

    Raises:
        InvalidInputError: naming the setting, the model and what it lacks.
    """
    longest = config.data.max_prompt_tokens + config.data.max_response_tokens
    named = {"model.name": config.model.name}
    if config.teacher:
        named["teacher.model"] = config.teacher.model
    for setting, name in named.items():
        try:
            architecture = AutoConfig.from_pretrained(name, trust_remote_code=False)
            check_architecture(architecture, longest)
        except (OSError, ValueError) as error:
            raise InvalidInputError(f"{setting} = {name}: {error}") from error
        if setting == "model.name" and not config.rollout.gpus_per_worker:
            _check_head_size(architecture.get_text_config(), name)


def _check_head_size(architecture: PretrainedConfig, name: str) -> None:
    size = getattr(architecture, "head_dim", None)
    size = size or architecture.hidden_size // architecture.num_attention_heads
    if size not in CPU_HEAD_SIZES:
        raise InvalidInputError(
            f"model.name = {name}: its attention heads have {size} dimensions, and vLLM serves "
            f"only {', '.join(map(str, CPU_HEAD_SIZES))} on a CPU; choose another model, or set "
            "rollout.gpus_per_worker"
        )
