"""The command irlign best-of: best-of-n sampling and rejection sampling."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from actors.errors import InvalidInputError
from cluster.cli.options import Overrides, PolicyPath, line_console
from cluster.run_state.files import CONFIG


def best_of(
    run: PolicyPath,
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="JSON lines to write: prompt, best response and its reward."
        ),
    ],
    num: Annotated[int, typer.Option("--n", help="Responses sampled for each prompt.")] = 16,
    reward: Annotated[
        str | None,
        typer.Option(
            help="Folder or Hub name of a reward model, or module:function. Default: the rewards "
            "of the run, with their weights."
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Demonstrations or preferences from which prompts are taken. Default: "
            "evaluation.num_prompts held-out prompts of the run.",
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSON lines to write: prompt, best response as chosen, worst as rejected.",
        ),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Sample n responses to each prompt from the newest policy of a run, and keep the best one.

    The file of --out can be the data.path of another job (rejection sampling), that of --pairs its
    preferences.path. Empty responses and responses cut off at their limit are left out.

    The table estimates the expected reward of the best of 1, 2, 4, ... n responses, without bias
    for the reward that selects them. By any other measure the best of many may be worse.

        irlign best-of runs/king-james --reward my_rewards:brevity --out best.jsonl --n 32

        irlign best-of runs/king-james --prompts more.jsonl --out best.jsonl --pairs pairs.jsonl
    """
    _check_arguments(run, num, out, pairs, prompts)
    from cluster.cli import best_of_table  # noqa: PLC0415 - torch takes seconds
    from cluster.jobs.best_of import sample_and_score  # noqa: PLC0415 - torch and Ray too
    from cluster.validation.best_of import check_best_of  # noqa: PLC0415

    console = line_console()
    request = check_best_of(run, num, reward=reward, prompts=prompts, overrides=overrides or ())
    shared_folder = run if (run / CONFIG).is_file() else out.parent
    _check_writable(shared_folder)
    began = time.monotonic()
    result = sample_and_score(request, shared_folder, console)
    best_of_table.print_result(request, result, time.monotonic() - began, console)
    best_of_table.write_result(request, result, out, pairs, console)
    best_of_table.print_advice(request, console, are_held_out=prompts is None)


def _check_arguments(
    run: Path, num: int, out: Path, pairs: Path | None, prompts: str | None
) -> None:
    """Refuse what cannot work, before anything slow is imported."""
    if num < 1:
        raise InvalidInputError(f"--n {num}: must be at least 1")
    if pairs is not None and num < 2:
        raise InvalidInputError(
            f"--n {num}: --pairs needs at least 2 responses to each prompt; raise --n"
        )
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
            _check_writable(path.parent)


def _check_writable(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InvalidInputError(f"the folder {folder} is not writable; choose another one")
