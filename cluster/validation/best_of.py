"""Everything that can be known to be wrong with irlign best-of before a worker starts."""

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
from cluster.config.datasets import load_data
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
"""The setting by which a job has neither discriminator nor teacher."""


class BestOfRequest(NamedTuple):
    """What is to be sampled and scored, all of it checked."""

    config: RunConfig
    """Of the run, or made for a model; its rewards are those that count."""
    policy: Path
    """Whose responses."""
    data: TokenizedDemonstrations
    rows: NDArray[np.int64]
    """Of the data, to be answered."""
    num_samples: int
    """Responses to each."""
    scales: dict[str, float]
    """By which reward sources are divided; one that is not here by 1."""


def check(
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
        reward: a model's folder or hub name, or module:function; None takes the run's own rewards,
            weighed as in the run.
        prompts: data whose prompts are answered; None takes held-out prompts of the run.
        overrides: of the settings, as load_job takes them.

    Returns:
        What to do.

    Raises:
        InvalidInputError: at the first thing that would fail.
    """
    policy, is_run = newest_policy(place), (place / CONFIG).is_file()
    for option, given in (("--reward", reward), ("--prompts", prompts)):
        if given is None and not is_run:
            raise InvalidInputError(f"{place} is a model and no run, which has {option}; give it")
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
    try:
        data = load_data(config) if prompts is None else _load_prompts(config, prompts)
    except (OSError, ValueError) as error:
        raise InvalidInputError(str(error)) from error
    rows = data.held_out_rows
    if prompts is None:
        rows = held_out_sample(rows, config.evaluation.num_prompts)
    return BestOfRequest(config, policy, data, rows, num_samples, scales)


def reward_source(name: str) -> RewardConfig:
    """Return the reward that a name stands for: code, a folder, or a model on the hub.

    A prompt that it fails is left out and told of: the others have been paid for.
    """
    path = Path(name).expanduser()
    if path.exists():
        return RewardConfig(model=str(path.resolve()), on_error="drop")
    is_function = IMPORT_PATH.fullmatch(name) is not None
    return RewardConfig(**{"function" if is_function else "model": name}, on_error="drop")


def _settings(place: Path, prompts: str | None, overrides: Sequence[str]) -> RunConfig:
    """Return a run's settings, or for a model the defaults, as far as it has room for them."""
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
    """Tokenize the prompts of any data, all to be answered; their responses stay text."""
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
            [row._replace(response="") for row in rows],  # a longer one than allowed is no matter
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
