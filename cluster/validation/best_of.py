"""Checks of `irlign best-of` before the first worker starts. Writes nothing."""

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray
from transformers import AutoTokenizer

from actors.config.scorers import RewardConfig
from actors.errors import InvalidInputError
from actors.rewards.function_worker import load_reward_function
from actors.rewards.sources import is_log_ratio, read_log_ratio
from alignment.data.comparisons import best_responses, read_comparisons
from alignment.data.demonstrations import Demonstration, read_demonstrations
from alignment.data.formats import detected_format
from alignment.data.rows import HUB
from alignment.data.splits import held_out_sample
from alignment.data.tokenized import TokenizedDemonstrations, tokenize_rows
from cluster.config.datasets import invalid_input, load_demonstrations
from cluster.config.job_file import load_job
from cluster.config.run_config import MAX_RESPONSE_TOKENS, DataConfig, RunConfig
from cluster.resources.model_files import policy_files, reward_model_files
from cluster.run_state.directory import newest_policy
from cluster.run_state.files import CONFIG
from cluster.run_state.manifest import load_manifest
from cluster.validation.allowlist import check_allowlist
from cluster.validation.preflight import check_windows

IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ONLY_SAMPLING = "objective.steps=0"
"""Override with which a job has neither a discriminator nor a teacher."""


class BestOfRequest(NamedTuple):
    """A checked request: what to sample, and what to score it with."""

    config: RunConfig
    """Settings of the run, or defaults for a model; its rewards choose the best response."""
    policy: Path
    """Folder of the model that samples."""
    data: TokenizedDemonstrations
    rows: NDArray[np.int64]
    """Rows of the data whose prompts are sampled from."""
    num_samples: int
    """Responses to each prompt."""
    scales: dict[str, float]
    """Divisor of each reward source; 1 for one that is not named."""


def check_best_of(
    place: Path,
    num_samples: int,
    *,
    reward: str | None,
    prompts: str | None,
    overrides: Sequence[str] = (),
) -> BestOfRequest:
    """Check a policy, a reward and prompts; the cheap checks come first.

    Args:
        place: a run directory or a model folder.
        reward: a model's folder or hub name, or module:function; None takes the run's own rewards
            with their weights.
        prompts: data whose prompts are taken; None takes held-out prompts of the run.

    Raises:
        InvalidInputError: at the first thing that would fail.
    """
    policy, is_run = newest_policy(place), (place / CONFIG).is_file()
    for option, given in (("--reward", reward), ("--prompts", prompts)):
        if given is None and not is_run:
            raise InvalidInputError(f"{place} is a model, not a run; give {option}")
    config = _settings(place, prompts, overrides)
    rewards = (reward_source(reward),) if reward is not None else config.rewards
    if not rewards:
        raise InvalidInputError(f"{place} has no rewards of its own; give --reward")
    config = config.model_copy(update={"rewards": rewards})
    check_allowlist(config, None)
    check_windows(config, policy_files(config.model.name))
    for source in rewards:
        _check_reward(source)
    scales = load_manifest(place, config.name).reward_scales if reward is None else {}
    with invalid_input():
        data = load_demonstrations(config) if prompts is None else _load_prompts(config, prompts)
    rows = data.held_out_rows
    if prompts is None:
        rows = held_out_sample(rows, config.evaluation.num_prompts)
    return BestOfRequest(config, policy, data, rows, num_samples, scales)


def reward_source(name: str) -> RewardConfig:
    """Return the reward that a name stands for: code, a folder, or a model on the hub.

    A prompt whose reward fails is left out and counted; the other prompts are kept.
    """
    path = Path(name).expanduser()
    if path.exists():
        return RewardConfig(model=str(path.resolve()), on_error="drop")
    is_function = IMPORT_PATH.fullmatch(name) is not None
    return RewardConfig(**{"function" if is_function else "model": name}, on_error="drop")


def _settings(place: Path, prompts: str | None, overrides: Sequence[str]) -> RunConfig:
    """Return the settings of a run, or defaults that fit the context of a model."""
    if (place / CONFIG).is_file():
        return load_job(place / CONFIG, [*overrides, ONLY_SAMPLING])
    window = policy_files(str(place)).max_tokens or sys.maxsize
    response = min(MAX_RESPONSE_TOKENS, window // 2)
    prompt = min(int(DataConfig.model_fields["max_prompt_tokens"].default), window - response)
    data = {"path": prompts, "max_prompt_tokens": prompt, "max_response_tokens": response}
    settings = {"name": "best-of", "model": {"name": str(place.resolve())}, "data": data}
    with tempfile.TemporaryDirectory() as folder:
        job = Path(folder) / "settings"
        job.write_text(yaml.safe_dump(settings))
        return load_job(job, [*overrides, ONLY_SAMPLING])


def _check_reward(source: RewardConfig) -> None:
    if source.model is None:
        load_reward_function(str(source.function))
    elif is_log_ratio(source.model):
        pair = read_log_ratio(source.model)
        for policy in (pair.numerator, pair.denominator):
            policy_files(policy)
    else:
        reward_model_files(source.model)


def _load_prompts(config: RunConfig, source: str) -> TokenizedDemonstrations:
    """Tokenize the prompts of any data, all as evaluation rows; their responses stay text."""
    path = source if source.startswith(HUB) else Path(source).expanduser()
    rows: list[Demonstration]
    if detected_format(path, "--prompts").holds == "demonstrations":
        rows = read_demonstrations(path)
    else:
        rows = best_responses(read_comparisons(path))
    tokenizer = AutoTokenizer.from_pretrained(config.model.name)
    return TokenizedDemonstrations(
        rows=tuple(rows),
        trajectories=tokenize_rows(
            [row._replace(response="") for row in rows],  # its length does not matter
            tokenizer,
            system_prompt=config.data.system_prompt,
            max_prompt_tokens=config.data.max_prompt_tokens,
            max_response_tokens=config.data.max_response_tokens,
        ),
        train_rows=np.zeros(0, np.int64),
        held_out_rows=np.arange(len(rows)),
        tokenizer=tokenizer,
        seed=config.seed,
    )
