import subprocess
import sys
from pathlib import Path

import pytest

from actors.errors import InvalidInputError
from cluster.config.job_file import load_job, setting_paths
from cluster.config.run_config import RunConfig

MINIMAL = "name: a-run\nmodel: {name: org/model}\ndata: {path: data/d.jsonl}\n"


@pytest.fixture
def job(tmp_path):
    def write(text=MINIMAL):
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return path

    return write


def error_of(path, overrides=()):
    with pytest.raises(InvalidInputError) as raised:
        load_job(path, overrides)
    return str(raised.value)


def test_what_the_file_does_not_say_has_its_default(job, tmp_path):
    config = load_job(job())
    given = {"name": "a-run", "model": {"name": "org/model"}}
    data = {"path": tmp_path / "data/d.jsonl"}
    assert config == RunConfig.model_validate({**given, "data": data})


def test_paths_are_seen_from_the_job_files_folder(job, tmp_path):
    (tmp_path / "beside").mkdir()
    path = job(MINIMAL + "rewards: [{model: beside}, {model: org/hub}, {function: m:f}]")
    overrides = ["model.name=../models/m", "data.path=/absolute.jsonl", "teacher.model=./t"]
    config = load_job(path, overrides)
    assert config.teacher is not None
    assert config.teacher.model == str(tmp_path / "t")
    assert config.model.name == str(tmp_path.parent / "models/m")
    assert config.data.path == Path("/absolute.jsonl")
    assert [source.model for source in config.rewards] == [
        str(tmp_path / "beside"),
        "org/hub",
        None,
    ]
    assert load_job(path, ["model.name=beside"]).model.name == str(tmp_path / "beside")


def test_overrides_are_yaml_applied_in_order(job):
    path = job(MINIMAL + "objective: {group_size: 6}\nrewards: [{function: 'm:f'}]")
    overrides = [
        *("objective.steps=5", "objective.steps=7", "objective.reference.coefficient=1e-3"),
        *("rewards.0.weight=2.5", "evaluation.patterns={thou: a=b}", "data.system_prompt=null"),
    ]
    config = load_job(path, overrides)
    assert (config.objective.steps, config.objective.group_size) == (7, 6)
    assert config.objective.reference.coefficient == 0.001
    assert config.rewards[0].weight == 2.5
    assert config.evaluation.patterns == {"thou": "a=b"}
    assert config.data.system_prompt is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.stepz=3", "unknown setting objective.stepz; did you mean objective.steps?"),
        ("warm_start.steps=3", "warm_start was renamed to sft; use the new name"),
        (
            "preferences={path: p, parameters: {demonstrations: 1}}",
            "parameters.demonstrations was renamed to preferences.parameters.sft_weight",
        ),
        (
            "preferences.parameters.skew=0.1",
            "preferences.parameters.skew was renamed to preferences.divergence_parameters.skew",
        ),
        ("preferences.parameters.betta=1", "did you mean preferences.parameters.beta?"),
        ("preferences.parameters.beta=0", "preferences.parameters.beta is 0; it must be more than"),
        (
            "objective={divergence: alpha}",
            "objective.divergence: alpha needs the parameter alpha; set "
            "objective.divergence_parameters.alpha, such as 0.5",
        ),
        (
            "objective={divergence: generalized_js, divergence_parameters: {beta: 0.5, skew: 0}}",
            "objective.divergence_parameters.skew is 0.0, but generalized_js takes beta; leave it",
        ),
        (
            "objective={divergence: 'm:f', divergence_parameters: {alpha: 1}}",
            "objective.divergence_parameters.alpha is 1.0, but m:f takes no parameter; leave it",
        ),
        (
            "objective={divergence: skew_forward_kl, divergence_parameters: {skew: 1.5}}",
            "objective.divergence_parameters.skew is 1.5; it must be less than 1",
        ),
        ("objective.temperature=1", "setting objective.temperature; did you mean rollout.temper"),
        ("temperature=1", "unknown setting temperature; did you mean rollout.temperature?"),
        (
            "data.qqq=1",
            "unknown setting data.qqq; the settings there are path, discriminator_context",
        ),
        ("objective.steps=many", "objective.steps is 'many'; it should be a valid integer"),
        ("objective.steps=-1", "objective.steps is -1; it must be at least 0"),
        ("data.held_out_fraction=1", "data.held_out_fraction is 1; it must be less than 1"),
        ("rollout.temperature=0", "rollout.temperature is 0; it must be more than 0"),
        ("discriminator.replay_fraction=0.8", "replay_fraction is 0.8; it must be at most 0.75"),
        (
            "objective.divergence=reverse-kl",
            "objective.divergence: unknown divergence 'reverse-kl'; did you mean reverse_kl? "
            "choose one of forward_kl, reverse_kl, jensen_shannon, jeffreys, alpha, squared_",
        ),
        ("objective.level=state", "so the expert must be a model; set teacher.model, or another"),
        ("objective={level: state, divergence: alpha}", "alpha is not defined at objective.level"),
        ("objective={level: occupancy, divergence: fairl}", "it has no generator f to sum over"),
        ("objective={level: token, advantage: group_mean}", "gives credit by token; use leave_one"),
        ("objective.advantage=self_normalized", "the reward of forward_kl, and objective.diverg"),
        ("objective.on_policy_fraction=0.5", "on_policy_fraction = 0.5 needs level state"),
        (
            "objective={on_policy_fraction: 0, level: state, divergence: forward_kl}",
            "the penalty needs the policy's own samples; set the coefficient to 0",
        ),
        ("teacher={model: m, modle: x}", "did you mean teacher.model?"),
        ("rollout=3", "rollout is 3; it must be a section of settings"),
        ("name=a run", "name is 'a run'; it must match ^[A-Za-z0-9]"),
        (
            "objective.divergence_weight=0",
            "divergence_weight is 0 and there are neither rewards nor",
        ),
        ("objective.group_size=900", "raise that, or lower objective.group_size"),
    ],
)
def test_a_mistake_is_one_sentence_that_says_what_is_right(job, override, message):
    path = job()
    error = error_of(path, [override])
    assert message in error
    assert error.startswith(f"{path}: ")
    assert "\n" not in error
    assert "pydantic" not in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective.steps", '"objective.steps" is not of the form section.setting=value'),
        ("=3", '"=3" is not of the form'),
        ("a..b=3", '"a..b=3" is not of the form'),
        ("name.first=3", '"name.first=3": name is a single value, not a section'),
        (
            "rewards.1.weight=3",
            '"rewards.1.weight=3": index 1 is out of range; the list has length 1',
        ),
        ("data.path=[", 'the value of "data.path=[" is not YAML; quote it'),
    ],
)
def test_an_override_that_cannot_be_applied_is_named(job, override, message):
    assert message in error_of(job(MINIMAL + "rewards: [{function: m:f}]"), [override])


def test_a_convex_function_of_ones_own_is_a_divergence(job):
    objective = load_job(job(), ["objective.divergence=mine.functions:f"]).objective
    assert (objective.divergence, objective.divergence_parameters.given()) == (
        "mine.functions:f",
        {},
    )


def test_several_mistakes_are_a_list(job):
    error = error_of(job("name: a\nmodel: {}\nobjective: {steps: -1}\nrewards: [{}, {wieght: 1}]"))
    assert error.splitlines()[0].endswith("has 4 mistakes:")
    assert error.splitlines()[1:] == [
        "- model.name is missing; it has no default",
        "- data is missing; it has no default",
        "- objective.steps is -1; it must be at least 0",
        "- unknown setting rewards.1.wieght; did you mean rewards.1.weight?",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\nmodel: {name: [}\n", "line 2: not YAML (expected the node content"),
        ("", "has no settings"),
        ("- a", "has no settings"),
    ],
)
def test_a_file_without_settings_is_named(job, text, message):
    assert message in error_of(job(text))


def test_a_missing_job_file_is_named(tmp_path):
    assert error_of(tmp_path / "gone.yaml") == (
        f"{tmp_path}/gone.yaml: no such job file; deploy/jobs and deploy/examples have files to "
        "copy"
    )


def test_setting_paths_name_every_level():
    paths = set(setting_paths())
    assert {"seed", "objective", "objective.reference.coefficient", "rewards.0.weight"} <= paths
    assert all(path.count(".") <= 2 for path in paths)


def test_loading_a_job_imports_no_heavy_library(job):
    code = (
        "import sys; from pathlib import Path; from cluster.config.job_file import load_job;"
        "load_job(Path(sys.argv[1]));"
        "print(sorted({'torch', 'ray', 'vllm', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(job())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
