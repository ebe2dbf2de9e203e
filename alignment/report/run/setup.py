"""The settings of a run that its objective uses, as rows of a table."""

from collections.abc import Iterator

from alignment.report.run_files import Run

DIVERGENCES = {
    "forward_kl": "Forward KL, KL(expert, policy): penalizes low probability on any response of "
    "the expert. The policy covers all modes of the expert, possibly with mass between them.",
    "reverse_kl": "Reverse KL, KL(policy, expert): penalizes responses that are unlikely under the "
    "expert. The policy seeks modes of the expert and may lose diversity.",
    "jensen_shannon": "Jensen-Shannon: symmetric in expert and policy, at most log 2 = 0.693 nats, "
    "between mode covering and mode seeking.",
}


def setup_rows(run: Run) -> list[tuple[str, str]]:
    """Return label and text of each row; settings that the run lacks are written as "?"."""
    rows = [
        ("Model", _get(run, "model.name")),
        ("Demonstrations", _demonstrations(run)),
        *_objectives(run),
        (
            "SFT stage",
            f"{_get(run, 'sft.steps')} steps of {_get(run, 'sft.prompts_per_step')} "
            f"demonstrations, learning rate {_get(run, 'sft.learning_rate')}",
        ),
        ("On-policy stage", _on_policy_stage(run)),
        ("Workers", ", ".join(_workers(run))),
        ("Seed", _get(run, "seed")),
    ]
    known = {key: run.manifest.get(key) for key in ("started", "finished", "versions")}
    return rows + [(key.capitalize(), _plain(value)) for key, value in known.items() if value]


def _get(run: Run, path: str) -> str:
    return str(run.setting(path, "?"))


def _demonstrations(run: Run) -> str:
    path = run.setting("data.path") or "the best responses of the preferences"
    context = run.setting("data.discriminator_context")
    scorers = f'; scorers also read "{context}", the policy does not' if context else ""
    share = _get(run, "data.held_out_fraction")
    return f"{path}, evaluation set: {share} of the rows{scorers}"


def _has_divergence(run: Run) -> bool:
    weights = run.setting("objective.steps", 1), run.setting("objective.divergence_weight", 1.0)
    return all(weights)


def _objectives(run: Run) -> Iterator[tuple[str, str]]:
    """Yield a row for each objective of the on-policy stage."""
    name, has_divergence = _get(run, "objective.divergence"), _has_divergence(run)
    if has_divergence:
        yield "Divergence", DIVERGENCES.get(name, name)
    if run.setting("preferences"):
        yield "Preferences", _preferences(run)
    rewards = [each for each in run.setting("rewards") or [] if isinstance(each, dict)]
    if rewards:
        sources = ", ".join(str(each.get("function") or each.get("model")) for each in rewards)
        yield "Additional rewards" if has_divergence else "Rewards", sources


def _preferences(run: Run) -> str:
    objective = _get(run, "preferences.objective")
    if objective == "self_play":
        return "self_play: demonstrations over the policy's own responses"
    source = run.setting("preferences.path") or "the policy's own responses, ranked by the rewards"
    trains = "" if _get(run, "preferences.teaches") == "policy" else ", trains the discriminator"
    return f"{objective} on {source}{trains}"


def _on_policy_stage(run: Run) -> str:
    size = f"{_get(run, 'objective.steps')} steps of {_get(run, 'objective.prompts_per_step')}"
    rate = f"learning rate {_get(run, 'objective.learning_rate')}"
    schedule = run.setting("objective.learning_rate_schedule", "constant")
    rate += "" if schedule == "constant" else f" ({schedule} schedule)"
    is_offline = run.setting("preferences.path") is not None
    if is_offline and not _has_divergence(run) and not run.setting("rewards"):
        return f"{size} comparisons, {rate}, no sampling"
    lag = _get(run, "objective.max_staleness_steps")
    staleness = "strictly on-policy" if lag == "0" else f"at most {lag} steps stale"
    group = _get(run, "objective.group_size")
    return f"{size} prompts with {group} responses each, {rate}, {staleness}"


def _workers(run: Run) -> Iterator[str]:
    yield f"{_get(run, 'rollout.num_workers')} rollout"
    if run.setting("teacher"):
        yield f"{_get(run, 'teacher.num_workers')} teacher"
    elif _has_divergence(run):
        yield f"{_get(run, 'discriminator.num_workers')} discriminator"
    yield f"{_get(run, 'learner.num_ranks')} learner"


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {part}" for key, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
