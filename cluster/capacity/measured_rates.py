"""Rates of GPUs as an earlier run of the same model measured them: medians of its steps."""

import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import median

from actors.errors import InvalidInputError
from cluster.capacity.gpu_rates import Rates
from cluster.capacity.step_cost import Lengths, work_of
from cluster.capacity.step_time import iterations_s, rank_tokens, request_prompts
from cluster.config.run_config import RunConfig
from cluster.resources.model_shape import ModelShape
from cluster.run_state.directory import read_config
from cluster.run_state.files import METRICS

NEEDED = (
    "rollout/tokens_per_s",
    "rollout/response_length",
    "learner/tokens_per_s",
    "learner/trained_tokens",
    "learner/num_action_tokens",
    "learner/step_s",
    "time/learning_s",
    "time/scoring_s",
    "time/sync_s",
    "time/waiting_s",
)
"""Metrics of every on-policy step that rates are computed from."""
Medians = dict[str, float]


def lengths_from_metrics(run_dir: Path) -> Lengths:
    """Return the mean lengths of prompts and responses in a run.

    Returns:
        The lengths. In the learner's rows each prompt lies once, with its responses behind it.
    """
    return _lengths(read_config(run_dir), _medians(run_dir))


def rates_from_metrics(
    run_dir: Path, config: RunConfig, shape: ModelShape, scorer: ModelShape | None, sheet: Rates
) -> Rates:
    """Replace the rates of a data sheet by those that a run measured.

    With W rollout workers, and tokens and prompts of one request:

        sampled  tokens / (request seconds - iterations), the seconds being the step's sampled
                 tokens / rollout/tokens_per_s; iterations are the data sheet's, and at most all
        learned   learner/tokens_per_s of all ranks, by the share of the fullest one
        publish  published bytes / (time/learning_s - learner/step_s)
        scored   tokens of update and scores / (time/discriminator_s + time/scoring_s), if the run
                 has the scorer of the job
        fetch    published bytes / time/sync_s; and overhead, time/waiting_s: only of a run with
                 max_staleness_steps 0, where phases do not overlap

    The rest, such as what links between GPUs carry, stays the data sheet's.

    Args:
        run_dir: directory of a run on GPUs with on-policy steps and constant numbers of workers.
        scorer: shape of its discriminator's layers or teacher, if it has one.
        sheet: the rates of such a GPU by its data sheet.

    Returns:
        The rates, with which the estimate of that run's own split is what it measured.

    Raises:
        InvalidInputError: if the run cannot be compared with the job.
    """
    run, seen = read_config(run_dir), _medians(run_dir)
    _require_comparable(run_dir, run, config)
    work = work_of(run, shape, scorer, _lengths(run, seen))
    size = request_prompts(work, run.rollout.num_workers)
    request_s = work.sampled_tokens / seen["rollout/tokens_per_s"]
    waiting_s = iterations_s(work, sheet, size)
    share = min(request_s / waiting_s, 1.0)
    request_tokens = size * work.group_size * work.lengths.response
    fullest = rank_tokens(work, run.learner.num_ranks) / work.trained_tokens
    publish_s = seen["time/learning_s"] - seen["learner/step_s"]
    rates = sheet._replace(
        source=f"{run_dir} (measured) and {sheet.source}",
        iteration_s=share * sheet.iteration_s,
        sampled_tokens_per_s=_per_second(request_tokens, request_s - share * waiting_s),
        prefilled_tokens_per_s=math.inf,  # within what was measured
        trained_tokens_per_s=fullest * seen["learner/tokens_per_s"],
        publish_bytes_per_s=_per_second(work.published_bytes, publish_s),
    )
    if scorer and _scores_alike(run, config):
        scoring_s = seen.get("time/discriminator_s", 0.0) + seen["time/scoring_s"]
        scorers = run.teacher if run.teacher and run.has_teacher else run.discriminator
        tokens = work.update_passes_tokens + rank_tokens(work, scorers.num_workers)
        rates = rates._replace(scored_tokens_per_s=_per_second(tokens, scoring_s))
    if run.objective.max_staleness_steps == 0:
        sync_s, overhead_s = seen["time/sync_s"], seen["time/waiting_s"]
        fetch = _per_second(work.published_bytes, sync_s)
        rates = rates._replace(fetch_bytes_per_s=fetch, overhead_s=overhead_s)
    return rates


def _require_comparable(run_dir: Path, run: RunConfig, config: RunConfig) -> None:
    """Refuse a run whose rates do not apply to the job on GPUs."""
    if not (run.rollout.gpus_per_worker and run.learner.gpus_per_rank):
        raise InvalidInputError(
            f"the run in {run_dir} computed on CPUs, so its rates do not apply to GPUs; give a "
            "run on GPUs, or omit --rates-from"
        )
    there, here = Path(run.model.name).name, Path(config.model.name).name
    if there != here:
        raise InvalidInputError(
            f"the run in {run_dir} has the model {there}, the job {here}; give a run of the same "
            "model, or omit --rates-from"
        )
    if run.autoscale or run.learner.min_ranks:
        raise InvalidInputError(
            f"the run in {run_dir} changed its number of workers (autoscale, learner.min_ranks), "
            "so the rate of one worker is unknown; give a run with fixed numbers"
        )


def _scores_alike(run: RunConfig, config: RunConfig) -> bool:
    """Whether the run has the same scorer as the job, so that a token takes as long."""
    if run.has_discriminator:
        there, here = run.discriminator, config.discriminator
        is_same = (there.num_layers, there.tuning) == (here.num_layers, here.tuning)
        return config.has_discriminator and is_same
    if run.teacher is None or config.teacher is None:
        return False
    return run.has_teacher and run.teacher.model == config.teacher.model


def _lengths(run: RunConfig, seen: Medians) -> Lengths:
    prompts_tokens = seen["learner/trained_tokens"] - seen["learner/num_action_tokens"]
    prompt = prompts_tokens / run.objective.prompts_per_step
    return Lengths(prompt, seen["rollout/response_length"])


def _medians(run_dir: Path) -> Medians:
    """Return the median of every metric over the on-policy steps of a run.

    Raises:
        InvalidInputError: if there are none, or the file is damaged.
    """
    path = run_dir / METRICS
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [row for row in map(json.loads, lines) if row["stage"] == "on_policy"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInputError(f"{path} cannot be read as a run's metrics ({error!r})") from error
    values: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        for name in row.keys() - {"stage"}:
            if row[name] is not None:  # not a finite number
                values[name].append(float(row[name]))
    missing = [name for name in NEEDED if name not in values]
    if missing:
        raise InvalidInputError(
            f"{path} has no {missing[0]} in any on-policy step; give a run with on-policy steps"
        )
    return {name: median(each) for name, each in values.items()}


def _per_second(amount: float, seconds: float) -> float:
    """Return the rate; infinite for what took no time."""
    return amount / seconds if seconds > 0.0 else math.inf
