"""What irlign plan shows: the split, the lines that ask for it, what limits it, and from what."""

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
"""Splits in the table."""
SHARES = {2: (0.5, 0.5), 3: (0.5, 0.25, 0.25)}
"""Parts of a GPU for as many kinds on it, the engine first."""


def show(
    config: RunConfig,
    work: Work,
    rates: Rates,
    ranking: Sequence[Estimate],
    pool: GpuPool,
    console: Console,
) -> None:
    """Print the best split and its rivals.

    Args:
        rates: from which times are estimated.
        ranking: of the splits, the best first.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    best, scorer = ranking[0], _judge_kind(config)
    place = f"[bold]{escape(config.name)}[/] on {_counted(pool.num_gpus, 'GPU')}"
    step = f"a step of {config.objective.prompts_per_step} prompts"
    workers = _workers(best.split, scorer)
    say(f"{place}: {workers}; {step} takes about {_seconds(best.step_s)}.")
    for line in settings(best.split, scorer):
        say(f"  {line}")
    if unused := pool.num_gpus - best.split.num_gpus:
        say(f"No use of the other {_counted(unused, 'GPU')} makes a step {SAME_SHARE:.0%} faster.")
    console.print(_splits_table(ranking[:NUM_SHOWN], scorer))
    console.print(_memory_table(pool.memory(best.split), pool.gpu_gib))
    say(_sync_sentence(work, best.phases))
    say(limit_sentence(work, best, config, num_unused=unused))
    say(
        f"This is arithmetic, not a measurement: rates are from {escape(rates.source)}; prompts "
        f"were taken to have {work.lengths.prompt:.0f} tokens and responses "
        f"{work.lengths.response:.0f}, on average."
    )


def settings(split: Split, scorer: str) -> list[str]:
    """Return the lines that ask for a split, one a kind of worker.

    Returns:
        Each "--set KEY=VALUE --set KEY=VALUE".
    """
    rollout_gpus, rank_gpus, scorer_gpus = _gpus_each(split)
    asked = [
        ("rollout.num_workers", split.rollouts, "rollout.gpus_per_worker", rollout_gpus),
        ("learner.num_ranks", split.ranks, "learner.gpus_per_rank", rank_gpus),
    ]
    if split.scorers:
        asked.append(
            (f"{scorer}.num_workers", split.scorers, f"{scorer}.gpus_per_worker", scorer_gpus)
        )
    return [
        f"--set {count}={number} --set {gpus}={share:g}" for count, number, gpus, share in asked
    ]


def limit_sentence(work: Work, best: Estimate, config: RunConfig, *, num_unused: int) -> str:
    """Say what decides the time of a step, and what would help.

    Args:
        num_unused: GPUs that the best split leaves, because they do not help.

    Returns:
        A sentence, or two.
    """
    phases, overlaps = best.phases, config.objective.max_staleness_steps > 0
    match best.bound:
        case "staleness":
            what = (
                f"the leash: {config.objective.max_staleness_steps + 1} steps under way take "
                f"{_seconds(phases.chain_s)} from sampling to learning; raise "
                "objective.max_staleness_steps"
            )
        case "sampling":
            what = _sampling_limit(work, phases, num_unused)
        case "judging" if config.has_discriminator:
            what = (
                "the discriminator, of which one worker alone trains; lower "
                "discriminator.num_layers or discriminator.updates_per_step"
            )
        case "judging":
            what = "the teacher's scores; a smaller teacher, or more GPUs, would help"
        case "learning":
            what = _learning_limit(phases, num_unused)
    others = (
        ""
        if overlaps or best.split.sharing == "all"
        else (" The phases take turns; with objective.max_staleness_steps=1 they would overlap.")
    )
    return f"[bold]What limits it[/] is {what}.{others}"


def _sampling_limit(work: Work, phases: Phases, num_unused: int) -> str:
    needed_gib = work.max_sequences / work.max_cached_sequences
    if phases.sync_s > phases.sampling_busy_s:
        return "the fetch of weights by the rollout workers; a faster weight store would help"
    if phases.iterations_s < phases.sampling_s / 2:
        more = "more prompts a step for more workers" if num_unused else "more GPUs"
        return f"the computing of the rollout workers; {more}, or faster GPUs, would help"
    if needed_gib > 1.0:
        return (
            "the engines' cache, which holds "
            f"{work.max_cached_sequences:.0f} of {work.max_sequences} responses; raise "
            f"rollout.kv_cache_gib {needed_gib:.1f} times"
        )
    return (
        "the longest response: each of its tokens takes one reading of all weights, however many "
        "workers there are; a lower data.max_response_tokens, or more prompts a step, would help"
    )


def _learning_limit(phases: Phases, num_unused: int) -> str:
    if phases.publish_s > phases.learning_s / 2:
        return "the learner's publishing of weights; a faster weight store would help"
    if phases.gathering_s >= phases.learning_s - phases.publish_s:
        return (
            "what the learner's ranks send one another for each microbatch; raise "
            "learner.max_tokens_per_microbatch"
        )
    if num_unused:
        return (
            "the learner's computing, and more ranks would have to send one another more or would "
            "have no prompt; raise learner.max_tokens_per_microbatch or objective.prompts_per_step"
        )
    return "the learner's computing; more GPUs, or faster ones, would help"


def _gpus_each(split: Split) -> tuple[float, float, float]:
    """Of a rollout worker, a rank and a judge."""
    if split.sharing == "all":
        rollout, *others = SHARES[2 + split.scorers]
        return rollout, others[0], others[-1]
    if split.sharing == "judge with learner":
        return 1.0, 0.5, 0.5
    return 1.0, 1.0, 1.0


def _judge_kind(config: RunConfig) -> str:
    return "teacher" if config.has_teacher else "discriminator"


def _workers(split: Split, scorer: str) -> str:
    parts = [_counted(split.rollouts, "rollout worker"), _counted(split.ranks, "learner rank")]
    if split.scorers:
        noun = scorer if scorer == "teacher" else f"{scorer} worker"
        parts.append(_counted(split.scorers, noun))
    where = {
        "nothing": "",
        "all": ", all on one GPU",
        "judge with learner": ", the last two on one GPU",
    }[split.sharing]
    return f"{', '.join(parts[:-1])} and {parts[-1]}{where}"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"


def _splits_table(ranking: Sequence[Estimate], scorer: str) -> Table:
    has_scorer = ranking[0].split.scorers > 0
    kinds = ["rollouts", "ranks", *([f"{scorer}s"] if has_scorer else [])]
    phases = ["sampling", "sync", *(["judging"] if has_scorer else []), "learning"]
    table = Table(
        *kinds,
        "GPUs",
        "step s",
        *(f"{name} s" for name in phases),
        "tokens/s",
        "idle each",
        box=None,
    )
    for each in ranking:
        split, times = each.split, each.phases
        judged = [times.scoring_s] if has_scorer else []
        seconds = [each.step_s, times.sampling_s, times.sync_s, *judged, times.learning_s]
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
        "GPU memory of a", "GiB", f"of {USABLE_MEMORY * gpu_gib:.0f} usable: parts", box=None
    )
    for each in memory:
        parts = ", ".join(f"{name} {gib:.1f}" for name, gib in each.parts_gib.items())
        table.add_row(each.kind, f"{each.gib:.1f}", parts)
    return table


def _sync_sentence(work: Work, phases: Phases) -> str:
    return (
        f"Weights of {work.published_bytes / GIB:.1f} GiB are published in "
        f"{_seconds(phases.publish_s)}, within learning, and fetched by each rollout worker in "
        f"{_seconds(phases.sync_s)}."
    )
