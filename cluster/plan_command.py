"""The command irlign plan: how to split GPUs between sampling and learning, on paper."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from cluster.command_line import JobPath, Overrides, readable_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cluster.capacity import Split
    from cluster.config import RunConfig
    from cluster.gpu_memory import Memory
    from cluster.model_shape import ModelShape
    from cluster.step_work import Lengths

REPORT_WIDTH = 120
"""Of what is printed where there is no terminal to ask."""
GUESSED_SHARE = 0.5
"""Mean length over the longest, where neither an option nor a run says it."""


def plan(
    job: JobPath,
    overrides: Overrides = None,
    gpus: Annotated[int, typer.Option(min=1, help="How many there are.")] = 8,
    gpu: Annotated[str, typer.Option(help="Kind: h100, h200, a100, l40s or l4.")] = "h100",
    parameters: Annotated[
        float | None,
        typer.Option(metavar="N", help="Size of the model, such as 7e9; else its config.json's."),
    ] = None,
    rates_from: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run on such GPUs whose measured rates are taken."),
    ] = None,
    prompt_tokens: Annotated[
        float | None, typer.Option(min=1.0, help="Mean of a prompt; half the longest if not given.")
    ] = None,
    response_tokens: Annotated[
        float | None,
        typer.Option(min=1.0, help="Mean of a response; half the longest if not given."),
    ] = None,
) -> None:
    """Say on paper how to split GPUs between sampling and learning, and how long a step takes."""
    with readable_errors():
        from cluster.capacity_report import show  # noqa: PLC0415
        from cluster.gpu_split import Room, best_splits  # noqa: PLC0415
        from cluster.job_file import load_job  # noqa: PLC0415
        from cluster.measured_rates import rates_from_metrics  # noqa: PLC0415
        from cluster.rates import gpu_of, rates_from_hardware  # noqa: PLC0415
        from cluster.step_work import work_of  # noqa: PLC0415

        config = load_job(job, overrides or ())
        shape, judge = _shapes(config, parameters)
        lengths = _lengths(config, rates_from, prompt_tokens, response_tokens)
        work = work_of(config, shape, judge, lengths)
        rates = rates_from_hardware(gpu, shape, judge, work)
        if rates_from:
            rates = rates_from_metrics(rates_from, config, shape, judge, rates)
        room = Room(gpus, gpu_of(gpu).memory_gib, _memory(config, shape, judge))
        ranking = best_splits(work, rates, config.objective.max_staleness_steps, room)
        console = Console()
        console = console if console.is_terminal else Console(width=REPORT_WIDTH)
        show(config, work, rates, ranking, room, console)


def _shapes(
    config: "RunConfig", parameters: float | None
) -> "tuple[ModelShape, ModelShape | None]":
    """Return the shapes of the policy, and of the discriminator's layers or the teacher."""
    from cluster.model_shape import shape_of_files, shape_of_parameters  # noqa: PLC0415

    if parameters is not None:
        shape = shape_of_parameters(parameters)
    else:
        shape = shape_of_files(config.model.name)
    if config.teacher and config.has_teacher:
        return shape, shape_of_files(config.teacher.model)
    if config.has_discriminator:
        return shape, shape.first_layers(config.discriminator.num_layers)
    return shape, None


def _lengths(
    config: "RunConfig", run_dir: Path | None, prompt: float | None, response: float | None
) -> "Lengths":
    """Return what was given, else what the run had, else half of what the job allows."""
    from cluster.measured_rates import lengths_from_metrics  # noqa: PLC0415
    from cluster.step_work import Lengths  # noqa: PLC0415

    longest = config.data.max_prompt_tokens, config.data.max_response_tokens
    known = Lengths(*(max(math.floor(GUESSED_SHARE * each), 1) for each in longest))
    if run_dir:
        known = lengths_from_metrics(run_dir)
    return Lengths(prompt or known.prompt, response or known.response)


def _memory(
    config: "RunConfig", shape: "ModelShape", judge: "ModelShape | None"
) -> "Callable[[Split], Sequence[Memory]]":
    """Return what says how much memory one worker of each kind needs in a split."""
    from cluster import gpu_memory  # noqa: PLC0415

    fixed = [gpu_memory.rollout_memory(config.rollout, shape)]
    if judge and config.has_teacher:
        fixed.append(gpu_memory.teacher_memory(judge))
    elif judge:
        made = gpu_memory.discriminator_memory(config.discriminator, config.learner, judge)
        fixed.append(made)
    has_reference = config.has_reference

    def memory(split: "Split") -> "Sequence[Memory]":
        rank = gpu_memory.learner_memory(
            config.learner, shape, split.ranks, has_reference=has_reference
        )
        return fixed[0], rank, *fixed[1:]

    return memory
