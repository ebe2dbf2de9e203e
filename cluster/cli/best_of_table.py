"""Output of irlign best-of: the value of the best of n, the best responses, pairs."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from actors.errors import InvalidInputError
from alignment.rewards.best_of_n import (
    BestOf,
    WrittenRows,
    best_as_demonstrations,
    best_of_metrics,
    best_over_worst,
)
from cluster.jobs.best_of import ScoredResponses
from cluster.run_state.files import write_atomically
from cluster.validation.best_of import BestOfRequest

HELD_OUT_AGAIN = 0.1
"""Share of the prompts that print_advice suggests to hold out again: the rows that two values of
data.held_out_fraction hold out are nested."""


def print_result(
    request: BestOfRequest, result: ScoredResponses, seconds: float, console: Console
) -> None:
    """Print the expected rewards of the best responses, and how much was sampled."""
    responses = list(result.responses.values())
    console.print(_table(best_of_metrics(responses)))
    num_cut = sum(each.was_cut for row in responses for each in row)
    console.print(
        f"{len(request.rows)} prompts, {request.num_samples} responses to each, "
        f"{result.num_tokens:,} tokens sampled, {seconds:.0f} s. {num_cut} "
        "responses were cut off at data.max_response_tokens = "
        f"{request.config.data.max_response_tokens}."
    )
    if result.failures:
        first = next(iter(result.failures.values()))
        console.print(f"Left out: {len(result.failures)} prompts without a reward; {first}")


def _table(values: list[BestOf]) -> Table:
    table = Table(box=None, header_style="dim")
    for name in ("n", "reward of the best", "95 % interval", "KL at most, nats", "tokens of it"):
        table.add_column(name, justify="right")
    for each in values:
        has_interval = each.low is not None and each.high is not None
        table.add_row(
            str(each.num_drawn),
            f"{each.reward:.4g}",
            f"{each.low:.4g} to {each.high:.4g}" if has_interval else "needs 2 prompts",
            f"{each.kl_bound:.3f}",
            f"{each.num_tokens:.1f}",
        )
    return table


def write_result(
    request: BestOfRequest, result: ScoredResponses, out: Path, pairs: Path | None, console: Console
) -> None:
    """Write the best responses, and pairs if their file is given, and print how many there are.

    Raises:
        InvalidInputError: if there is nothing to write, or a file cannot be written.
    """
    prompts = dict(enumerate(request.data.rows))
    _write(out, best_as_demonstrations(prompts, result.responses), "demonstrations", console)
    if pairs is not None:
        _write(pairs, best_over_worst(prompts, result.responses), "pairs", console)


def _write(path: Path, rows: WrittenRows, kind: str, console: Console) -> None:
    reasons = ", ".join(f"{count} prompts where {why}" for why, count in rows.left_out.items())
    if not rows.values:
        raise InvalidInputError(f"there are no {kind} to write to {path}: {reasons}; raise --n")
    try:
        write_atomically(path, rows.json_lines)
    except OSError as error:
        raise InvalidInputError(f"cannot write {path}: {error.strerror}") from error
    left_out = f" (left out: {reasons})" if reasons else ""
    console.print(f"{path}: {len(rows.values)} {kind}{left_out}")


def print_advice(request: BestOfRequest, console: Console, *, are_held_out: bool) -> None:
    """Print the settings that a job needs to train on these responses."""
    data = request.config.data
    if are_held_out:
        fraction = HELD_OUT_AGAIN * data.held_out_fraction
        console.print(
            "These prompts were held out by the run. A job that trains on them cannot be evaluated "
            f"on them: with data.held_out_fraction {data.held_out_fraction:g} it would hold all of "
            f"them out again, with {fraction:.2g} about {HELD_OUT_AGAIN:.0%} of them."
        )
    if data.system_prompt:
        console.print(
            f"Such a job also needs the data.system_prompt of the run: {data.system_prompt}"
        )
