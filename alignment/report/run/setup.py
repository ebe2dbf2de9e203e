"""What was run, row by row: only what the job's settings had a part in."""

from collections.abc import Iterator

from alignment.report.run_files import Run

DIVERGENCES = {
    "forward_kl": "Forward KL, KL(expert, policy): the policy pays for everything the expert might "
    "say and it would not, so it spreads out to cover the expert, now and then too far.",
    "reverse_kl": "Reverse KL, KL(policy, expert): the policy pays for everything it says and the "
    "expert would not, so it keeps to what is surely right and may lose variety.",
    "jensen_shannon": "Jensen-Shannon: symmetric between expert and policy and never above "
    "log 2 = 0.693 nats, a balance between covering the expert and keeping to what is right.",
}


def setup_rows(run: Run) -> list[tuple[str, str]]:
    """Say what a run learned from what, and by whom.

    Args:
        run: its settings may lack anything.

    Returns:
        Label and text of each row.
    """
    rows = [
        ("Model", _get(run, "model.name")),
        ("Demonstrations", _demonstrations(run)),
        *_objectives(run),
        (
            "Stage 1: SFT",
            f"{_get(run, 'sft.steps')} steps of {_get(run, 'sft.prompts_per_step')} "
            f"demonstrations, learning rate {_get(run, 'sft.learning_rate')}",
        ),
        ("Stage 2: on-policy", _second_stage(run)),
        ("Workers", ", ".join(_workers(run))),
        ("Seed", _get(run, "seed")),
    ]
    known = {key: run.manifest.get(key) for key in ("started", "finished", "versions")}
    return rows + [(key.capitalize(), _plain(value)) for key, value in known.items() if value]


def _get(run: Run, path: str) -> str:
    return str(run.setting(path, "?"))


def _demonstrations(run: Run) -> str:
    path = run.setting("data.path") or "the best responses of the preferences"
    return f"{path}, {_get(run, 'data.held_out_fraction')} of them held out"


def _has_divergence(run: Run) -> bool:
    weights = run.setting("objective.steps", 1), run.setting("objective.divergence_weight", 1.0)
    return all(weights)


def _objectives(run: Run) -> Iterator[tuple[str, str]]:
    """Yield what stage 2 makes of the policy."""
    name, has_divergence = _get(run, "objective.divergence"), _has_divergence(run)
    if has_divergence:
        yield "Divergence", DIVERGENCES.get(name, name)
    if run.setting("preferences"):
        yield "Preferences", _preferences(run)
    rewards = [each for each in run.setting("rewards") or [] if isinstance(each, dict)]
    if rewards:
        sources = ", ".join(str(each.get("function") or each.get("model")) for each in rewards)
        yield "Further rewards" if has_divergence else "Rewards", sources


def _preferences(run: Run) -> str:
    objective = _get(run, "preferences.objective")
    if objective == "self_play":
        return "self_play: demonstrations over the policy's own responses"
    source = run.setting("preferences.path") or "the policy's own responses, by the rewards"
    pupil = ", for the discriminator" if _get(run, "preferences.teaches") != "policy" else ""
    return f"{objective}, of {source}{pupil}"


def _second_stage(run: Run) -> str:
    size = f"{_get(run, 'objective.steps')} steps of {_get(run, 'objective.prompts_per_step')}"
    rate = f"learning rate {_get(run, 'objective.learning_rate')}"
    given = run.setting("preferences.path") is not None
    if given and not _has_divergence(run) and not run.setting("rewards"):
        return f"{size} comparisons, {rate}, nothing sampled"
    lag = _get(run, "objective.max_staleness_steps")
    staleness = "strictly on-policy" if lag == "0" else f"at most {lag} steps stale"
    group = _get(run, "objective.group_size")
    return f"{size} prompts with {group} responses each, {rate}, {staleness}"


def _workers(run: Run) -> Iterator[str]:
    yield f"{_get(run, 'rollout.num_workers')} sampling"
    if run.setting("teacher"):
        yield f"{_get(run, 'teacher.num_workers')} teaching"
    elif _has_divergence(run):
        yield f"{_get(run, 'discriminator.num_workers')} discriminating"
    yield f"{_get(run, 'learner.num_ranks')} learning"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
