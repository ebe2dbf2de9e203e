"""Functions that build each kind of worker; they run in the worker's own process."""

from pathlib import Path
from typing import Any

from actors.config.scorers import RewardConfig, TeacherConfig
from cluster.config.run_config import RunConfig


def thread_environment(cpus: float) -> dict[str, str]:
    """Return the environment of a worker that computes with torch on this many cores.

    OMP_WAIT_POLICY keeps its default, to spin for a moment before sleeping: with PASSIVE the
    learner's steps took a fifth longer on two cores.
    """
    return {"OMP_NUM_THREADS": str(max(1, int(cpus))), "TOKENIZERS_PARALLELISM": "false"}


def build_rollout_worker(config: RunConfig, weights: Path) -> Any:  # noqa: ANN401
    """Build a rollout worker."""
    from actors.rollout.vllm_engine import VllmEngine  # noqa: PLC0415
    from actors.rollout.worker import RolloutWorker  # noqa: PLC0415
    from actors.weights.store import WeightStore  # noqa: PLC0415

    def engine() -> VllmEngine:
        data = config.data
        return VllmEngine(
            config.rollout, config.model.name, data.max_prompt_tokens, data.max_response_tokens
        )

    return RolloutWorker(config.rollout, WeightStore(weights), engine)


def build_discriminator_worker(config: RunConfig) -> Any:  # noqa: ANN401
    """Build a discriminator worker."""
    from actors.discriminator.worker import DiscriminatorWorker  # noqa: PLC0415
    from alignment.divergences.lookup import divergence  # noqa: PLC0415

    objective = config.objective
    return DiscriminatorWorker(
        config.model.name,
        config.discriminator,
        level=config.objective.level,
        divergence=divergence(objective.divergence, **objective.divergence_parameters.given()),
        max_tokens_per_microbatch=config.learner.max_tokens_per_microbatch,
        autocast=config.learner.autocast,
        seed=config.seed,
        preferences=config.preferences,
    )


def build_teacher_worker(config: RunConfig, teacher: TeacherConfig) -> Any:  # noqa: ANN401
    """Build a teacher worker."""
    from actors.rewards.teacher_worker import TeacherWorker  # noqa: PLC0415

    return TeacherWorker(
        teacher,
        max_tokens_per_microbatch=config.learner.max_tokens_per_microbatch,
        temperature=config.rollout.temperature,
        autocast=config.learner.autocast,
    )


def build_reward_source(source: RewardConfig, policy: str) -> Any:  # noqa: ANN401
    """Build a reward function, a reward model or a log-ratio reward."""
    from actors.rewards.function_worker import RewardFunctionWorker  # noqa: PLC0415
    from actors.rewards.log_ratio_worker import LogRatioWorker  # noqa: PLC0415
    from actors.rewards.model_worker import RewardModelWorker  # noqa: PLC0415
    from actors.rewards.sources import is_log_ratio  # noqa: PLC0415

    if source.model is not None and is_log_ratio(source.model):
        return LogRatioWorker(source.model, policy)
    if source.model is not None:
        return RewardModelWorker(source.model, policy)
    return RewardFunctionWorker(str(source.function), policy)
