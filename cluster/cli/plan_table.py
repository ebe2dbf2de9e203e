"""Output of irlign plan: the fastest splits, their settings, GPU memory and the bottleneck."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.capacity.gpu_allocation import SAME_SHARE, USABLE_MEMORY, GpuPool
from cluster.capacity.gpu_rates import Rates
from cluster.capacity.step_cost import Work
from cluster.capacity.step_time import Estimate, Phases, Split
from cluster.config.run_config import RunConfig
from cluster.resources.memory import GIB, Memory

NUM_SHOWN = 5
"""Rows of the table of splits."""
SHARES = {2: (0.5, 0.5), 3: (0.5, 0.25, 0.25)}
"""Number of workers on one GPU to the fraction of each, the rollout worker first."""


def print_plan(
    config: RunConfig,
    work: Work,
    rates: Rates,
    ranking: Sequence[Estimate],
    pool: GpuPool,
    console: Console,
) -> None:
    """Print the best split with its settings, memory and bottleneck, and the next best splits."""

    def print_line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    best, scorer = ranking[0], _scorer_kind(config)
    place = f"[bold]{escape(config.name)}[/] on {_counted(pool.num_gpus, 'GPU')}"
    step = f"a step of {config.objective.prompts_per_step} prompts"
    workers = _workers(best.split, scorer)
    print_line(f"{place}: {workers}; {step} takes about {_seconds(best.step_s)}.")
    for line in settings(best.split, scorer):
        print_line(f"  {line}")
    if unused := pool.num_gpus - best.split.num_gpus:
        print_line(
            f"The other {_counted(unused, 'GPU')} would not make a step {SAME_SHARE:.0%} faster."
        )
    console.print(_splits_table(ranking[:NUM_SHOWN], scorer))
    console.print(_memory_table(pool.memory(best.split), pool.gpu_gib))
    print_line(_sync_sentence(work, best.phases))
    print_line(limit_sentence(work, best, config, num_unused=unused))
    print_line(
        f"This is an estimate, not a measurement. Rates are from {escape(rates.source)}; prompts "
        f"are assumed to have {work.lengths.prompt:.0f} tokens and responses "
        f"{work.lengths.response:.0f}, on average."
    )


def settings(split: Split, scorer: str) -> list[str]:
    """Return the options of a split, a line of two per kind of worker."""
    rollout_gpus, rank_gpus, scorer_gpus = _gpus_each(split)
    kinds = [
        ("rollout.num_workers", split.rollouts, "rollout.gpus_per_worker", rollout_gpus),
        ("learner.num_ranks", split.ranks, "learner.gpus_per_rank", rank_gpus),
    ]
    if split.scorers:
        kinds.append(
            (f"{scorer}.num_workers", split.scorers, f"{scorer}.gpus_per_worker", scorer_gpus)
        )
    return [
        f"--set {count}={number} --set {gpus}={share:g}" for count, number, gpus, share in kinds
    ]


def limit_sentence(work: Work, best: Estimate, config: RunConfig, *, num_unused: int) -> str:
    """Return what decides the time of a step, and what would shorten it."""
    phases, overlaps = best.phases, config.objective.max_staleness_steps > 0
    match best.bound:
        case "staleness":
            num_steps = config.objective.max_staleness_steps + 1
            what = (
                f"the staleness limit: {num_steps} steps in progress take "
                f"{_seconds(phases.chain_s)} from sampling to learning; raise "
                "objective.max_staleness_steps"
            )
        case "sampling":
            what = _sampling_limit(work, phases, num_unused)
        case "scoring" if config.has_discriminator:
            what = (
                "the discriminator, which trains on one worker only; lower "
                "discriminator.num_layers or discriminator.updates_per_step"
            )
        case "scoring":
            what = "scoring by the teacher; use a smaller teacher or more GPUs"
        case "learning":
            what = _learning_limit(phases, num_unused)
    others = (
        ""
        if overlaps or best.split.sharing == "all"
        else (" The phases do not overlap; with objective.max_staleness_steps=1 they would.")
    )
    return f"[bold]Bottleneck:[/] {what}.{others}"


def _sampling_limit(work: Work, phases: Phases, num_unused: int) -> str:
    needed_gib = work.max_sequences / work.max_cached_sequences
    if phases.sync_s > phases.sampling_busy_s:
        return "the rollout workers' fetch of weights; use a faster weight store"
    if phases.iterations_s < phases.sampling_s / 2:
        more = "more prompts per step" if num_unused else "more GPUs"
        return f"the computation of the rollout workers; use {more} or faster GPUs"
    if needed_gib > 1.0:
        return (
            "the cache of the engines, which holds "
            f"{work.max_cached_sequences:.0f} of {work.max_sequences} responses; multiply "
            f"rollout.kv_cache_gib by {needed_gib:.1f}"
        )
    return (
        "the longest response: each of its tokens reads all weights once, with any number of "
        "workers; lower data.max_response_tokens or use more prompts per step"
    )


def _learning_limit(phases: Phases, num_unused: int) -> str:
    if phases.publish_s > phases.learning_s / 2:
        return "the learner's publishing of weights; use a faster weight store"
    if phases.gathering_s >= phases.learning_s - phases.publish_s:
        return (
            "the communication of the learner's ranks in each microbatch; raise "
            "learner.max_tokens_per_microbatch"
        )
    if num_unused:
        return (
            "the computation of the learner, which more ranks would not speed up: they would wait "
            "for communication or have no prompt; raise learner.max_tokens_per_microbatch or "
            "objective.prompts_per_step"
        )
    return "the computation of the learner; use more or faster GPUs"


def _gpus_each(split: Split) -> tuple[float, float, float]:
    """Return the GPUs of a rollout worker, a learner rank and a scorer."""
    if split.sharing == "all":
        rollout, *others = SHARES[2 + split.scorers]
        return rollout, others[0], others[-1]
    if split.sharing == "scorer with learner":
        return 1.0, 0.5, 0.5
    return 1.0, 1.0, 1.0


def _scorer_kind(config: RunConfig) -> str:
    return "teacher" if config.has_teacher else "discriminator"


def _workers(split: Split, scorer: str) -> str:
    parts = [_counted(split.rollouts, "rollout worker"), _counted(split.ranks, "learner rank")]
    if split.scorers:
        noun = scorer if scorer == "teacher" else f"{scorer} worker"
        parts.append(_counted(split.scorers, noun))
    where = {
        "nothing": "",
        "all": ", all on one GPU",
        "scorer with learner": ", the last two on one GPU",
    }[split.sharing]
    return f"{', '.join(parts[:-1])} and {parts[-1]}{where}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def _splits_table(ranking: Sequence[Estimate], scorer: str) -> Table:
    has_scorer = ranking[0].split.scorers > 0
    kinds = ["rollouts", "ranks", *([f"{scorer}s"] if has_scorer else [])]
    phases = ["sampling", "sync", *(["scoring"] if has_scorer else []), "learning"]
    table = Table(
        *kinds,
        "GPUs",
        "step s",
        *(f"{name} s" for name in phases),
        "tokens/s",
        "idle",
        box=None,
    )
    for each in ranking:
        split, times = each.split, each.phases
        scoring = [times.scoring_s] if has_scorer else []
        seconds = [each.step_s, times.sampling_s, times.sync_s, *scoring, times.learning_s]
        idle = [each.idle[kind] for kind in each.idle]
        table.add_row(
            *(str(number) for number in split[: len(kinds)]),
            f"{split.num_gpus}{'' if split.sharing == 'nothing' else ' shared'}",
            *(f"{value:.3g}" for value in seconds),
            f"{each.tokens_per_s:,.0f}",
            " ".join(f"{share:.0%}" for share in idle),
        )
    return table


def _memory_table(memory: Sequence[Memory], gpu_gib: float) -> Table:
    table = Table(
        "GPU memory per", "GiB", f"parts, of {USABLE_MEMORY * gpu_gib:.0f} GiB usable", box=None
    )
    for each in memory:
        parts = ", ".join(f"{name} {gib:.1f}" for name, gib in each.parts_gib.items())
        table.add_row(each.kind, f"{each.gib:.1f}", parts)
    return table


def _sync_sentence(work: Work, phases: Phases) -> str:
    return (
        f"Weights of {work.published_bytes / GIB:.1f} GiB are published in "
        f"{_seconds(phases.publish_s)}, a part of learning, and fetched by each rollout worker in "
        f"{_seconds(phases.sync_s)}."
    )
