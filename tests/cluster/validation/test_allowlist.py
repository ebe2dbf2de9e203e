import json

import pytest

from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig
from cluster.validation.allowlist import ALLOWED_IMPORTS, ALLOWED_PATHS, check_allowlist


def job(**sections):
    required = {"name": "run", "model": {"name": "org/hub"}, "data": {"path": "/data/a.jsonl"}}
    return RunConfig.model_validate(required | sections)


CODE = (
    (job(rewards=[{"function": "mine.rewards:f"}]), "rewards.0.function"),
    (job(objective={"divergence": "mine.rewards:f"}), "objective.divergence"),
)


@pytest.mark.parametrize(("config", "setting"), CODE)
@pytest.mark.parametrize("allowed", ["", "other", "min", "mine.rewards.deeper", "mine.reward"])
def test_code_that_is_not_allowed_is_refused_by_name(monkeypatch, config, setting, allowed):
    monkeypatch.setenv(ALLOWED_IMPORTS, allowed)
    remedy = ",".join([*filter(None, [allowed]), "mine.rewards"])
    with pytest.raises(InvalidInputError) as refused:
        check_allowlist(config, None)
    assert str(refused.value).startswith(f"{setting}: mine.rewards:f would run code")
    assert f"set {ALLOWED_IMPORTS}={remedy} if you trust it" in str(refused.value)


@pytest.mark.parametrize(("config", "setting"), CODE)
@pytest.mark.parametrize("allowed", ["mine", "mine.rewards", "other, mine", "*"])
def test_code_of_an_allowed_module_and_what_is_below_it_may_be_named(
    monkeypatch, config, setting, allowed
):
    monkeypatch.setenv(ALLOWED_IMPORTS, allowed)
    check_allowlist(config, None)


def test_without_the_variable_no_code_may_be_named(monkeypatch):
    monkeypatch.delenv(ALLOWED_IMPORTS)
    check_allowlist(job(), None)
    with pytest.raises(InvalidInputError, match="it allows: none"):
        check_allowlist(CODE[0][0], None)


def test_paths_are_confined_wherever_links_and_dots_lead(monkeypatch, tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "inside-not"
    for folder in (inside, outside):
        folder.mkdir()
        (folder / "a.jsonl").write_text("")
    (inside / "link.jsonl").symlink_to(outside / "a.jsonl")
    monkeypatch.setenv(ALLOWED_PATHS, f"{inside}:/nowhere")

    def paths(data=inside / "a.jsonl", model="org/hub", run_dir=inside / "run", **sections):
        check_allowlist(job(data={"path": data}, model={"name": model}, **sections), run_dir)

    paths()
    for wrong, setting in (
        ({"data": outside / "a.jsonl"}, "data.path"),
        ({"data": inside / "link.jsonl"}, "data.path"),
        ({"data": inside / ".." / "inside-not" / "a.jsonl"}, "data.path"),
        ({"model": str(outside)}, "model.name"),
        ({"teacher": {"model": str(outside)}}, "teacher.model"),
        ({"rewards": [{"model": str(outside)}]}, "rewards.0.model"),
        ({"run_dir": outside / "run"}, "--run-dir"),
    ):
        with pytest.raises(InvalidInputError, match=f"^{setting}: .* lies outside of {inside}"):
            paths(**wrong)


def test_without_bounds_paths_may_lie_anywhere(monkeypatch, tmp_path):
    monkeypatch.delenv(ALLOWED_PATHS, raising=False)
    check_allowlist(job(model={"name": str(tmp_path)}), tmp_path)


def test_the_two_policies_of_a_log_ratio_are_confined_too(tmp_path, monkeypatch):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    for folder in (inside / "reward", inside / "start", outside):
        folder.mkdir(parents=True)
    ratio = {"numerator": str(outside), "denominator": str(inside / "start")}
    (inside / "reward" / "log_ratio.json").write_text(json.dumps(ratio))
    monkeypatch.setenv(ALLOWED_PATHS, str(inside))
    config = job(data={"path": inside / "a.jsonl"}, rewards=[{"model": str(inside / "reward")}])
    with pytest.raises(InvalidInputError, match=r"rewards\.0\.model, numerator: .*outside lies"):
        check_allowlist(config, None)
