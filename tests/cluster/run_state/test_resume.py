"""Which settings may change when a run resumes, and what the run notes of it."""

import pytest

from actors.errors import InvalidInputError
from cluster.config.job_file import setting_paths
from cluster.config.run_config import RunConfig
from cluster.run_state.directory import is_resumed, write_config
from cluster.run_state.manifest import Event, Manifest, Position, save_manifest
from cluster.run_state.resume import (
    COMPARED_BY_CONTENT,
    MAY_CHANGE,
    changed_settings,
    resumed,
)

FIXED = {
    *("name", "seed", "model.name"),
    "data.discriminator_context",
    *("data.system_prompt", "data.held_out_fraction", "data.max_response_tokens"),
    *("sft.prompts_per_step", "sft.reduction", "sft.td_weight"),
    *("objective.divergence", "objective.level", "objective.divergence_weight"),
    *("objective.learning_rate_schedule", "objective.demonstrations_weight"),
    *("objective.prompts_per_step", "objective.group_size", "objective.on_policy_fraction"),
    *("objective.advantage", "objective.importance"),
    *("objective.reference.coefficient", "objective.reference.estimator"),
    *(f"objective.divergence_parameters.{name}" for name in ("alpha", "beta", "skew")),
    *("rollout.temperature", "rollout.interrupt"),
    *("discriminator.num_layers", "discriminator.tuning", "discriminator.loss"),
    "discriminator.updates_per_step",
    *("discriminator.label_smoothing", "discriminator.gradient_penalty"),
    *("discriminator.token_dropout", "discriminator.spectral_norm"),
    *("discriminator.max_accuracy", "discriminator.replay_fraction"),
    *("teacher.model", "rewards.0.model", "rewards.0.function", "rewards.0.weight"),
    *("preferences.teaches", "preferences.objective", "preferences.divergence"),
    *(f"preferences.divergence_parameters.{name}" for name in ("alpha", "beta", "skew")),
    *("preferences.parameters.beta", "preferences.parameters.label_smoothing"),
    *("preferences.parameters.weight", "preferences.parameters.sft_weight"),
    *("preferences.parameters.margin_per_strength", "preferences.parameters.scale"),
    *("preferences.parameters.threshold", "preferences.parameters.tie_weight"),
    "preferences.parameters.desirable_weight",
    "preferences.parameters.undesirable_weight",
    *("reward_model.num_members", "reward_model.num_epochs"),
    "reward_model.comparisons_per_step",
}
"""Settings that make another run, because they change what is learned or from what."""
REMEDIES = (  # that errors and the report name, without those that change the objective
    *("placement.timeout_s", "placement.when_full", "placement.phases_share_cpus"),
    *("learner.max_tokens_per_microbatch", "learner.num_ranks", "learner.min_ranks"),
    *("learner.cpus_per_rank", "learner.gpus_per_rank", "learner.autocast"),
    *("rollout.kv_cache_gib", "rollout.num_workers", "rollout.gpus_per_worker", "rollout.dtype"),
    *("objective.max_staleness_steps", "objective.max_mean_log_ratio"),
    *("sft.learning_rate", "objective.learning_rate", "discriminator.learning_rate"),
    *("data.max_prompt_tokens", "rewards.0.on_error"),
    *("discriminator.warm_up_steps", "discriminator.warm_up_epochs", "discriminator.not_ready"),
)


def make(**sections):
    given = {"name": "run", "model": {"name": "org/hub"}, "data": {"path": "data.jsonl"}}
    return RunConfig.model_validate(given | sections)


def with_everything(**sections):
    return make(
        **{
            "rewards": [{"function": "m:f"}],
            "teacher": {"model": "org/teacher"},
            "preferences": {"path": "pairs.jsonl"},
            "reward_model": {"num_members": 1},
            "autoscale": {"max_workers": 3},
            "evaluation": {"metric": "m:f", "best": {"metric": "all/value", "goal": "min"}},
        }
        | sections
    )


def run_of(place, config, **manifest):
    place.mkdir()
    write_config(place, config)
    save_manifest(place, Manifest(name=config.name, **manifest))
    return place


def other(value):
    """Another value; none of them need be a valid setting."""
    return value + 1 if isinstance(value, int | float) else (value, "other")


def with_other(config, path):
    """Return the job with another value of one setting."""
    name, _, rest = path.partition(".")
    if isinstance(config, tuple):
        return (with_other(config[0], rest),)
    value = getattr(config, name)
    changed = with_other(value, rest) if rest else other(value)
    return config.model_copy(update={name: changed})


def test_every_setting_is_classified():
    paths = list(setting_paths())
    leaves = {path for path in paths if not any(each.startswith(f"{path}.") for each in paths)}
    assert leaves == MAY_CHANGE | COMPARED_BY_CONTENT | FIXED
    assert len(leaves) == len(MAY_CHANGE) + len(COMPARED_BY_CONTENT) + len(FIXED)
    assert set(REMEDIES) <= MAY_CHANGE


@pytest.mark.parametrize("path", sorted(MAY_CHANGE | COMPARED_BY_CONTENT))
def test_what_does_not_change_the_objective_may_change(tmp_path, path):
    run_dir = run_of(tmp_path / "run", with_everything())
    assert is_resumed(run_dir, with_other(with_everything(), path))


@pytest.mark.parametrize("path", sorted(FIXED))
def test_what_changes_the_objective_is_refused_by_name(tmp_path, path):
    run_dir = run_of(tmp_path / "run", with_everything())
    with pytest.raises(InvalidInputError) as raised:
        is_resumed(run_dir, with_other(with_everything(), path))
    assert f"belongs to another job, which differs in {path} (" in str(raised.value)
    assert "restore these settings to resume" in str(raised.value)


def test_a_section_that_comes_or_goes_is_judged_by_its_settings(tmp_path):
    run_dir = run_of(tmp_path / "run", make())
    assert is_resumed(run_dir, make(autoscale={"max_workers": 3}))
    with pytest.raises(InvalidInputError, match=r"teacher\.model \(None there, org/t in the job"):
        is_resumed(run_dir, make(teacher={"model": "org/t"}))
    scaled = run_of(tmp_path / "scaled", make(autoscale={"max_workers": 3}))
    assert is_resumed(scaled, make())


@pytest.mark.parametrize(
    ("at", "sections", "problem"),
    [
        ({"iteration": 6, "step": 6}, {"sft": {"steps": 5}}, "sft.steps from 10 to 5: 6 are done"),
        ({"iteration": 11, "step": 10}, {"sft": {"steps": 12}}, "stage 2 has begun; restore it"),
        (
            {"iteration": 18, "step": 13},
            {"objective": {"steps": 2}},
            "objective.steps from 9 to 2: 3 are done; set it to at least 3",
        ),
    ],
)
def test_steps_that_are_done_cannot_be_left_out(tmp_path, at, sections, problem):
    before = make(sft={"steps": 10}, objective={"steps": 9})
    run_dir = run_of(tmp_path / "run", before, **at)
    after = before.model_copy(
        update={
            name: getattr(before, name).model_copy(update=section)
            for name, section in sections.items()
        }
    )
    with pytest.raises(InvalidInputError) as raised:
        is_resumed(run_dir, after)
    assert f"{run_dir} cannot be resumed with " in str(raised.value)
    assert problem in str(raised.value)


def test_changes_are_events_with_both_values():
    after = make(placement={"timeout_s": 30.0}, learner={"num_ranks": 2})
    manifest = Manifest(name="run", elapsed_s=7.0, events=[Event(time_s=1.0, what="before")])
    found = resumed(manifest, make(), after, ["data.jsonl has changed, 3 rows before, 4 now"])
    assert [event.what for event in found.events] == [
        "before",
        "the run resumes with learner.num_ranks from 1 to 2",
        "the run resumes with placement.timeout_s from 600.0 to 30.0",
        "the run resumes with changed data: data.jsonl has changed, 3 rows before, 4 now",
    ]
    assert {event.time_s for event in found.events[1:]} == {7.0}
    assert resumed(manifest, make(), make()) == manifest


def test_a_changed_number_of_workers_replaces_one_by_irlign_scale():
    manifest = Manifest(name="run", target_workers={"rollout": 5, "discriminator": 2})
    found = resumed(manifest, make(), make(rollout={"num_workers": 3}))
    assert found.target_workers == {"discriminator": 2}


def test_every_number_of_steps_that_steps_were_taken_by_is_kept():
    def changed(manifest, before, after, at):
        manifest = manifest.model_copy(update=dict(Position(iteration=at, step=at)))
        found = resumed(manifest, make(sft={"steps": before}), make(sft={"steps": after}))
        return found.model_copy(update={"events": []})

    once = changed(Manifest(name="run"), 10, 20, at=6)
    assert once.step_changes == {"sft.steps": [(6, 10)]}
    assert changed(once, 20, 30, at=8).step_changes == {"sft.steps": [(6, 10), (8, 20)]}
    assert changed(once, 20, 30, at=6).step_changes == once.step_changes  # no step was taken by 20
    back = changed(once, 20, 30, at=4)  # at an older checkpoint
    assert back.step_changes == {"sft.steps": [(4, 10)]}


def test_steps_of_stage_2_are_counted_from_its_begin():
    before = make(sft={"steps": 10}, objective={"steps": 9})
    after = make(sft={"steps": 10}, objective={"steps": 30})
    found = resumed(Manifest(name="run", step=13, iteration=18), before, after)
    assert found.step_changes == {"objective.steps": [(3, 9)]}
    found = resumed(Manifest(name="run", step=7, iteration=7), before, after)
    assert found.step_changes == {"objective.steps": [(0, 9)]}  # which changes no rate


def test_a_setting_of_a_list_is_named_with_its_index():
    rewards = [{"function": "m:f"}, {"function": "m:g"}]
    after = make(rewards=[rewards[0], rewards[1] | {"num_workers": 2}])
    assert [str(change) for change in changed_settings(make(rewards=rewards), after)] == [
        "rewards.1.num_workers from 1 to 2"
    ]
