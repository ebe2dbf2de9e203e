"""The command irlign check: the workers, the data and one example, as the run will see them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alignment.data import comparisons, demonstrations
from alignment.data.duplicates import count_duplicates
from alignment.data.formats import detected_format
from alignment.data.unread_keys import unread_keys
from cluster.cli.options import JobPath, Overrides
from cluster.config.job_file import load_job
from cluster.config.run_config import RunConfig
from cluster.jobs.package import make_importable
from cluster.resources.placement import RAY_GIB, Plan
from cluster.validation.learning_process import LearningProcess
from cluster.validation.preflight import PreflightReport, check_run, print_caveat

if TYPE_CHECKING:  # it imports torch
    from alignment.data.tokenized import TokenizedComparisons, TokenizedDemonstrations


def check(job: JobPath, overrides: Overrides = None) -> None:
    """Check a job on this machine and print its workers and data. Starts no run.

    The first check of a job's models and objective takes longer: what it accepts is noted in
    ~/.cache/irlign.
    """
    config = load_job(job, overrides or ())
    make_importable(config, job.resolve().parent)
    from cluster.resources.availability import this_machine  # noqa: PLC0415 - Ray takes seconds

    console = Console()
    may_need_torch = config.evaluation.metric is not None  # code of the user, called here
    alone = nullcontext() if may_need_torch else transformers_alone()
    with LearningProcess() as learning, alone, console.status("checking"):
        report = check_run(config, None, this_machine(), begin_learning_check=learning.begin)
    print_report(config, report, console)


@contextmanager
def transformers_alone() -> Iterator[None]:
    """Let transformers be imported without torch, as it supports: that takes a fifth of the time.

    Until the process ends, transformers then has tokenizers and configurations, but no models.
    """
    if not {"torch", "transformers"} & set(sys.modules):
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that there is no torch
        sys.modules["torch"] = None  # type: ignore[assignment]  # so that it counts as missing
        try:
            yield
        finally:
            del sys.modules["torch"]
    else:
        yield


def print_report(config: RunConfig, report: PreflightReport, console: Console) -> None:
    """Print model, data, workers and stages of a job that passed the checks."""
    _print_model(config, report, console)
    _print_data(config, report, console)
    if report.comparisons and config.preferences:
        print_comparisons(report.comparisons, console, config.preferences.path)
    console.print(_plan_table(report.plan))
    if report.plan.shares_cpus:
        console.print("The kinds of workers take turns with the same cores.")
    print_caveat(config, report, console)
    console.print(
        f"[bold]{config.name}[/] is ready: {config.sft.steps} steps of SFT, then "
        f"{config.objective.steps} on-policy steps with {' and '.join(_objectives(config))}.",
        highlight=False,
        soft_wrap=True,
    )


def _objectives(config: RunConfig) -> Iterator[str]:
    """Yield what the on-policy steps optimize."""
    if config.objective.divergence_weight:
        yield config.objective.divergence
    if config.rewards and not config.ranks_rollouts:
        yield "rewards"
    if config.ranks_rollouts:
        yield "preferences between its own responses, ranked by rewards"
    elif config.preferences:
        yield "self-play" if config.preferences.is_self_play else "preferences"


def print_comparisons(
    data: "TokenizedComparisons", console: Console, source: str | Path | None = None
) -> None:
    """Print the number and kind of the comparisons, and one of them as the model will see it.

    Args:
        source: file or hub name of the comparisons, whose format is printed.
    """
    read_as = data.label_kind if source is None else detected_format(source, comparisons.SETTING)
    _print_counts("[bold]Preferences[/]", str(read_as), data, console)
    for remark in (*_remarks(data), *_not_learned_from(data, source, comparisons.SETTING)):
        console.print(f"        {escape(remark)}", highlight=False, soft_wrap=True)
    console.print(
        "[bold]First row[/] as the model sees it, the best response green, the others red:"
    )
    trajectories, ranks, _ = data.select(data.train_rows[:1])
    prompt = str(data.tokenizer.decode(trajectories.prompt(0).tolist()))
    console.print(escape(prompt), highlight=False, soft_wrap=True)
    for i, rank in enumerate(ranks.tolist()):
        response = str(data.tokenizer.decode(trajectories.response(i).tolist()))
        color = "red" if rank else "green"
        console.print(f"[{color}]{escape(response)}[/]", highlight=False, soft_wrap=True)


def _print_model(config: RunConfig, report: PreflightReport, console: Console) -> None:
    model = report.model
    context = f"{model.max_tokens:,}" if model.max_tokens else "unlimited"
    console.print(
        f"[bold]Model[/]   {escape(config.model.name)}\n        {escape(model.architecture)}, "
        f"{model.shape.num_parameters / 1e6:,.1f} million parameters, {model.shape.num_layers} "
        f"layers, context {context}",
        highlight=False,
        soft_wrap=True,
    )


def _print_data(config: RunConfig, report: PreflightReport, console: Console) -> None:
    data = report.data
    if config.data.path is None:
        read_as = "demonstrations: the best response to each prompt of the preferences"
    else:
        read_as = str(detected_format(config.data.path, demonstrations.SETTING))
    _print_counts("[bold]Data[/]", read_as, data, console)
    column = config.data.discriminator_context
    for remark in (
        *_not_learned_from(data, config.data.path, demonstrations.SETTING, also_read=column),
        _end_of_responses(config, data),
    ):
        console.print(f"        {escape(remark)}", highlight=False, soft_wrap=True)
    row = int(data.train_rows[0])
    console.print("[bold]First row[/] as the model sees it, the response green:")
    prompt, response = (
        str(data.tokenizer.decode(part.tolist()))
        for part in (data.trajectories.prompt(row), data.trajectories.response(row))
    )
    console.print(f"{escape(prompt)}[green]{escape(response)}[/]", highlight=False, soft_wrap=True)
    if data.scorer_prompts is not None:
        console.print("Its prompt as the discriminator, the teacher and the rewards see it:")
        prompt = str(data.tokenizer.decode(data.scorer_prompts[row].tolist()))
        console.print(escape(prompt), highlight=False, soft_wrap=True)


def _print_counts(
    heading: str,
    read_as: str,
    data: "TokenizedDemonstrations | TokenizedComparisons",
    console: Console,
) -> None:
    prompts, responses = data.trajectories.prompt_lengths, data.trajectories.response_lengths
    console.print(
        f"{heading}    {len(data.rows):,} {escape(read_as)}\n"
        f"        {len(data.train_rows):,} to train on, {len(data.held_out_rows):,} held out\n"
        f"        prompts up to {prompts.max()} tokens (mean {prompts.mean():.0f}), responses up "
        f"to {responses.max()} (mean {responses.mean():.0f})",
        highlight=False,
        soft_wrap=True,
    )
    for remark in count_duplicates(data.rows).remarks():
        console.print(f"        {remark}", highlight=False, soft_wrap=True)


def _not_learned_from(
    data: "TokenizedDemonstrations | TokenizedComparisons",
    source: str | Path | None,
    setting: str,
    *,
    also_read: str | None = None,
) -> Iterator[str]:
    """Yield what the rows hold and nothing is learned from."""
    turns = sum(turn.role == "assistant" for row in data.rows for turn in row.history)
    if turns:
        yield (
            f"{turns:,} earlier messages of the assistant are part of prompts; only the last one "
            "of a conversation is a response to learn"
        )
    unread = [] if source is None else unread_keys(source, setting, also_read=also_read)
    if unread:
        yield f"no effect: {', '.join(unread)}"


def _end_of_responses(config: RunConfig, data: "TokenizedDemonstrations") -> str:
    """Return which token ends the expert's responses, and where else sampling stops."""
    # imports transformers
    from alignment.data.chat_template import end_token_id, end_token_ids  # noqa: PLC0415

    end = end_token_id(data.tokenizer)
    others = [each for each in end_token_ids(config.model.name) if each != end]
    text = f"responses end with {data.tokenizer.convert_ids_to_tokens(end)}"
    if others:
        names = ", ".join(map(str, data.tokenizer.convert_ids_to_tokens(others)))
        text += f"; sampling also stops at {names}, which no response of the data ends with"
    return text


def _remarks(data: "TokenizedComparisons") -> Iterator[str]:
    """Yield counts of rows with ties, strengths and the like."""
    rows = data.rows
    if data.label_kind == "single labels":
        desirable = sum(row.ranks == (0,) for row in rows)
        yield f"{desirable:,} desirable, {len(rows) - desirable:,} undesirable"
    if data.label_kind == "rankings":
        yield f"up to {max(len(row.ranks) for row in rows)} responses each"
    counts = {
        "with a tie": sum(len(set(row.ranks)) < len(row.ranks) for row in rows),
        "with an empty response": sum("" in map(str.strip, row.responses) for row in rows),
        "with the same response twice": sum(
            len(set(row.responses)) < len(row.responses) for row in rows
        ),
        "with a strength": sum(row.strength is not None for row in rows),
    }
    yield from (f"{count:,} {what}" for what, count in counts.items() if count)
    domains = {row.domain for row in rows if row.domain is not None}
    if domains:
        yield f"{len(domains)} domains"


def _plan_table(made: Plan) -> Table:
    table = Table("worker", "number", "CPUs each", "GPUs each", "host memory each, expected")
    for each in made.workers:
        table.add_row(
            each.kind,
            str(each.num_workers),
            f"{each.cpus:g}",
            f"{each.gpus:g}",
            f"{each.memory_gib:.1f} GiB",
        )
    table.add_row("Ray and the driver", "", "", "", f"{RAY_GIB:.1f} GiB")
    table.add_section()
    table.add_row("total", "", "", "", f"{made.memory_gib:.1f} GiB")
    return table
