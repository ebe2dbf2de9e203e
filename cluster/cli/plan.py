"""The command irlign plan: an estimate of the fastest split of GPUs between the workers."""

import math
from pathlib import Path
from typing import Annotated

import typer

from actors.errors import InvalidInputError
from cluster.capacity.gpu_allocation import GpuPool, best_splits
from cluster.capacity.gpu_rates import gpu_of, rates_from_hardware
from cluster.capacity.measured_rates import lengths_from_metrics, rates_from_metrics
from cluster.capacity.step_cost import Lengths, work_of
from cluster.cli.options import JobPath, Overrides, table_console
from cluster.cli.plan_table import print_plan
from cluster.config.job_file import load_job
from cluster.config.run_config import RunConfig
from cluster.resources.memory import run_memory, scorer_shape
from cluster.resources.model_files import shape_of_files
from cluster.resources.model_shape import ModelShape, shape_of_parameters

GUESSED_SHARE = 0.5
"""Mean length over the longest, where neither an option nor a run gives it."""


def plan(
    job: JobPath,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="Number of GPUs.")] = 8,
    gpu: Annotated[str, typer.Option(help="Kind of GPU: h100, h200, a100, l40s or l4.")] = "h100",
    parameters: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="Parameters of the model, such as 7e9. Default: read from its files."
        ),
    ] = None,
    rates_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Run on such GPUs, whose measured rates replace those of the data sheet.",
        ),
    ] = None,
    prompt_tokens: Annotated[
        float | None,
        typer.Option(min=1.0, help="Mean length of prompts. Default: half the longest."),
    ] = None,
    response_tokens: Annotated[
        float | None,
        typer.Option(min=1.0, help="Mean length of responses. Default: half the longest."),
    ] = None,
) -> None:
    """Estimate the fastest split of GPUs between the workers, and the time of a step.

    Nothing is started, and no model is loaded.

        irlign plan job.yaml --gpus 64 --gpu h200

        irlign plan job.yaml --gpus 64 --parameters 7e9 --response-tokens 400

        irlign plan job.yaml --gpus 64 --rates-from runs/first
    """
    config = load_job(job, overrides or ())
    shape, scorer = _shapes(config, parameters)
    lengths = _lengths(config, rates_from, prompt_tokens, response_tokens)
    work = work_of(config, shape, scorer, lengths)
    rates = rates_from_hardware(gpu, shape, scorer, work)
    if rates_from:
        rates = rates_from_metrics(rates_from, config, shape, scorer, rates)
    pool = GpuPool(
        gpus,
        gpu_of(gpu).memory_gib,
        lambda split: run_memory(config, shape, scorer, split.ranks, "gpu"),
    )
    ranking = best_splits(work, rates, config.objective.max_staleness_steps, pool)
    print_plan(config, work, rates, ranking, pool, table_console())


def _shapes(config: RunConfig, parameters: float | None) -> tuple[ModelShape, ModelShape | None]:
    """Return the shapes of the policy, and of the discriminator's layers or the teacher."""
    if parameters is not None:
        policy = shape_of_parameters(parameters)
    else:
        try:
            policy = shape_of_files(config.model.name)
        except InvalidInputError as error:
            raise InvalidInputError(f"{error}; or give --parameters, such as 7e9") from error
    teacher = (
        shape_of_files(config.teacher.model) if config.teacher and config.has_teacher else None
    )
    return policy, scorer_shape(config, policy, teacher)


def _lengths(
    config: RunConfig, run_dir: Path | None, prompt: float | None, response: float | None
) -> Lengths:
    """Return the given lengths, else those of the run, else half of what the job allows."""
    longest = config.data.max_prompt_tokens, config.data.max_response_tokens
    known = Lengths(*(max(math.floor(GUESSED_SHARE * each), 1) for each in longest))
    if run_dir:
        known = lengths_from_metrics(run_dir)
    return Lengths(prompt or known.prompt, response or known.response)
