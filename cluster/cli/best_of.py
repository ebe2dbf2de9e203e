"""The command irlign best-of: best-of-n sampling and rejection sampling."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from actors.errors import InvalidInputError
from alignment.rewards.best_of_n import (
    BestOf,
    Rows,
    best_as_demonstrations,
    best_of_figures,
    best_over_worst,
)
from cluster.cli.options import Overrides, quiet_libraries
from cluster.jobs.best_of import Answers, sample
from cluster.run_state.files import CONFIG, write_atomically
from cluster.validation.best_of import BestOfRequest, check

KEPT_OUT = 0.1
"""Of the prompts, by the advice on data.held_out_fraction: the sets of two fractions are nested."""


def best_of(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Run directory, or the folder of a model.",
            callback=Path.expanduser,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Best response to each prompt, as JSON lines."),
    ],
    num: Annotated[int, typer.Option("--n", help="Responses sampled for each prompt.")] = 16,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub name of a reward model, or module:function; "
            "the run's own rewards, weighed as there, if not given."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Demonstrations or preferences whose prompts are answered; "
            "evaluation.num_prompts held-out ones of the run if not given.",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Best and worst as chosen and rejected, as JSON lines."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Sample n responses to each prompt from the newest policy of a run, and keep the best.

    --out can be the data.path of another job (rejection sampling), --pairs its preferences.path. A
    response that was cut at its limit, or is empty, is written to neither.

    The table estimates, from all responses and without bias, what the best of fewer would be worth
    to the reward that chooses it; another judge may disagree the more, the larger n is.
    """
    _require(run, num, out, pairs, prompts)
    quiet_libraries()
    console = Console(soft_wrap=True, highlight=False, markup=False)
    request = check(run, num, reward=reward, prompts=prompts, overrides=overrides or ())
    shared_folder = run if (run / CONFIG).is_file() else out.parent
    _require_writable(shared_folder)
    began = time.monotonic()
    found = _sample(request, shared_folder, console)
    tell(request, found, time.monotonic() - began, console)
    write(request, found, out, pairs, console)
    _advise(request, console, are_held_out=prompts is None)


def _sample(request: BestOfRequest, shared_folder: Path, console: Console) -> Answers:
    """Return the answers, or end the command as a run that failed."""
    return sample(request, shared_folder, console)


def tell(request: BestOfRequest, found: Answers, seconds: float, console: Console) -> None:
    """Say what the best responses are worth, and what was sampled.

    Args:
        request: what was sampled and scored.
    """
    responses = list(found.responses.values())
    console.print(table(best_of_figures(responses)))
    num_cut = sum(each.was_cut for row in responses for each in row)
    console.print(
        f"{len(request.rows)} prompts, {request.num_samples} responses to each, "
        f"{found.num_tokens:,} tokens sampled, {seconds:.0f} s. Cut at data.max_response_tokens = "
        f"{request.config.data.max_response_tokens}: {num_cut} responses."
    )
    if found.failures:
        first = next(iter(found.failures.values()))
        console.print(f"Left out: {len(found.failures)} prompts without a reward; {first}")


def table(figures: list[BestOf]) -> Table:
    """Return what best-of-n is worth, a row for each n."""
    shown = Table(box=None, header_style="dim")
    for name in ("n", "reward of the best", "95 %", "KL at most, nats", "tokens of the best"):
        shown.add_column(name, justify="right")
    for each in figures:
        has_interval = each.low is not None and each.high is not None
        shown.add_row(
            str(each.num_drawn),
            f"{each.reward:.4g}",
            f"{each.low:.4g} to {each.high:.4g}" if has_interval else "of one prompt none",
            f"{each.kl_bound:.3f}",
            f"{each.num_tokens:.1f}",
        )
    return shown


def write(
    request: BestOfRequest, found: Answers, out: Path, pairs: Path | None, console: Console
) -> None:
    """Write the files, and say what is in them.

    Args:
        request: whose data hold the prompts.
        pairs: for preferences, if they are wanted.

    Raises:
        InvalidInputError: if there is nothing to write, or a file cannot be written.
    """
    prompts = dict(enumerate(request.data.rows))
    _write(out, best_as_demonstrations(prompts, found.responses), "demonstrations", console)
    if pairs is not None:
        _write(pairs, best_over_worst(prompts, found.responses), "pairs", console)


def _write(path: Path, rows: Rows, kind: str, console: Console) -> None:
    reasons = ", ".join(f"{count} prompts where {why}" for why, count in rows.left_out.items())
    if not rows.values:
        raise InvalidInputError(f"there are no {kind} to write to {path}: {reasons}; raise --n")
    try:
        write_atomically(path, rows.json_lines)
    except OSError as error:
        raise InvalidInputError(f"cannot write {path}: {error.strerror}") from error
    left_out = f" (left out: {reasons})" if reasons else ""
    console.print(f"{path}: {len(rows.values)} {kind}{left_out}")


def _advise(request: BestOfRequest, console: Console, *, are_held_out: bool) -> None:
    """Say what a job needs that learns from these responses."""
    data = request.config.data
    if are_held_out:
        console.print(
            "These prompts were held out: a job that learns from them can no longer be measured on "
            f"them. With data.held_out_fraction {data.held_out_fraction:g}, the run's, it would "
            f"hold them all out again; with {KEPT_OUT * data.held_out_fraction:.2g} it holds out "
            f"about {KEPT_OUT:.0%} of them."
        )
    if data.system_prompt:
        console.print(f"Such a job needs the same data.system_prompt: {data.system_prompt}")


def _require(run: Path, num: int, out: Path, pairs: Path | None, prompts: str | None) -> None:
    """See that what is named is there, before anything is imported for it."""
    if num < 1:
        raise InvalidInputError(f"--n {num}: it takes at least 1 response to each prompt")
    if pairs is not None and num < 2:
        raise InvalidInputError(f"--n {num}: --pairs compares 2 responses or more; raise --n")
    named = [path.resolve() for path in (out, pairs, prompts and Path(prompts)) if path]
    if len(set(named)) < len(named):
        raise InvalidInputError("--out, --pairs and --prompts must be different files")
    if not run.is_dir():
        raise InvalidInputError(f"there is no run directory or model folder {run}")
    for path in (out, pairs):
        if path is not None:
            if path.is_dir() or not path.parent.is_dir():
                why = "it is a folder" if path.is_dir() else f"there is no folder {path.parent}"
                raise InvalidInputError(f"cannot write {path}: {why}; name a file")
            _require_writable(path.parent)


def _require_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInputError(f"nothing can be written in {folder}; choose another folder")
