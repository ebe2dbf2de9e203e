"""What irlign check shows: who gets what, and one conversation as the model will see it."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.config import RunConfig
from cluster.placement import RAY_GIB, Plan
from cluster.preflight import Findings


def show(config: RunConfig, findings: Findings, console: Console) -> None:
    """Print what the checks found.

    Args:
        config: the job.
        findings: of the checks.
        console: where to.
    """
    _show_model(config, findings, console)
    _show_data(findings, console)
    console.print(_plan_table(findings.plan))
    if findings.plan.shares_cpus:
        console.print("The kinds of workers take turns with the same cores.")
    show_caveat(config, findings, console)
    warm_start, objective = config.warm_start, config.objective
    console.print(
        f"[bold]{config.name}[/] is ready: {warm_start.steps} steps of warm start, then "
        f"{objective.steps} of {objective.divergence}.",
        highlight=False,
    )


def show_caveat(config: RunConfig, findings: Findings, console: Console) -> None:
    """Print what to know of the chosen divergence, if there is something."""
    if findings.caveat:
        name = escape(config.objective.divergence)
        console.print(f"[yellow]{name}: {escape(findings.caveat)}[/]", soft_wrap=True)


def _show_model(config: RunConfig, findings: Findings, console: Console) -> None:
    model = findings.model
    context = f"{model.max_tokens:,}" if model.max_tokens else "unlimited"
    console.print(
        f"[bold]Model[/]   {escape(config.model.name)}\n        {escape(model.architecture)}, "
        f"{model.size.num_parameters / 1e6:,.1f} million parameters, {model.size.num_layers} "
        f"layers, context {context}",
        highlight=False,
        soft_wrap=True,
    )


def _show_data(findings: Findings, console: Console) -> None:
    data = findings.data
    prompts, responses = data.trajectories.prompt_lengths, data.trajectories.response_lengths
    console.print(
        f"[bold]Data[/]    {len(data.rows):,} demonstrations: {len(data.train_rows):,} to train "
        f"on, {len(data.held_out_rows):,} held out\n"
        f"        prompts up to {prompts.max()} tokens (mean {prompts.mean():.0f}), responses up "
        f"to {responses.max()} (mean {responses.mean():.0f})",
        highlight=False,
        soft_wrap=True,
    )
    row = int(data.train_rows[0])
    tokens = (data.trajectories.prompt(row), data.trajectories.response(row))
    prompt, response = (str(data.tokenizer.decode(part.tolist())) for part in tokens)
    console.print("[bold]As the model sees it[/] (the response is green):")
    console.print(f"{escape(prompt)}[green]{escape(response)}[/]", highlight=False, soft_wrap=True)


def _plan_table(made: Plan) -> Table:
    table = Table("worker", "number", "CPUs each", "GPUs each", "memory each, expected")
    for each in made.workers:
        table.add_row(
            each.kind,
            str(each.num_workers),
            f"{each.cpus:g}",
            f"{each.gpus:g}",
            f"{each.memory_gib:.1f} GiB",
        )
    table.add_row("Ray and driver", "", "", "", f"{RAY_GIB:.1f} GiB")
    table.add_section()
    table.add_row("together", "", "", "", f"{made.memory_gib:.1f} GiB")
    return table
