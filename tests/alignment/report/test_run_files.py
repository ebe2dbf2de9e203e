import pytest

from alignment.report.run_files import read_run
from tests.alignment.report.small_run import CONFIG


def line(step, stage="on_policy", **values):
    return {"step": step, "stage": stage, "time_s": float(step), **values}


def test_a_later_line_wins_and_keeps_what_it_does_not_repeat(write_run):
    rows = [line(7, loss=1.0, nll=2.0), line(8, loss=3.0), line(7, loss=0.5), line(8, "sft")]
    run = read_run(write_run(metrics=rows))
    assert [(row.step, row.stage) for row in run.rows] == [
        (7, "on_policy"),
        (8, "sft"),
        (8, "on_policy"),
    ]
    assert run.series("loss") == [(7, 0.5), (8, 3.0)]
    assert run.series("nll", "on_policy") == [(7, 2.0)]
    assert run.series("nll", "sft") == []


def test_a_later_sample_of_the_same_prompt_wins(write_run):
    common = {"prompt_id": 1, "prompt": "p", "expert": "e", "finish_reason": "STOP"}
    rows = [{**common, "phase": "after", "response": text} for text in ("old", "new")]
    samples = read_run(write_run(samples=rows)).samples
    assert {phase: list(by_prompt) for phase, by_prompt in samples.items()} == {"after": [1]}
    assert samples["after"][1].response == "new"


def test_a_torn_last_line_is_left_out_with_a_note(write_run):
    folder = write_run(metrics=[line(1, loss=1.0)])
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "stage": "on_p')
    run = read_run(folder)
    assert [row.step for row in run.rows] == [1]
    note = "Line 2 of metrics.jsonl was torn while it was written; it is left out."
    assert run.notes == [note]


def test_a_line_that_cannot_be_used_costs_only_itself(write_run):
    run = read_run(write_run(metrics=[line(1), {"stage": "on_policy"}, [4], line(2)]))
    assert [row.step for row in run.rows] == [1, 2]
    assert len(run.notes) == 2
    assert run.notes[0] == "Line 2 of metrics.jsonl cannot be used; it is left out."


def test_infinite_and_nan_values_are_kept_apart(write_run):
    run = read_run(write_run(metrics=[line(1, loss=float("nan"), kl=float("inf"), n=3)]))
    assert run.rows[0].values == {"n": 3.0}
    assert run.rows[0].not_finite == ("loss", "kl")


def test_an_invalid_pattern_is_noted_and_the_others_ignore_case(write_run):
    evaluation = {"patterns": {"bad": "(", "good": "thou"}}
    run = read_run(write_run(config={**CONFIG, "evaluation": evaluation}))
    assert list(run.patterns) == ["good"]
    assert run.patterns["good"].search("THOU")
    assert run.notes[0].startswith("The pattern bad is not a regular expression")


def test_settings_are_found_by_path(write_run):
    run = read_run(write_run())
    assert run.setting("objective.steps") == 3
    assert run.setting("objective.steps.more", "nothing") == "nothing"
    assert run.setting("absent") is None


def test_a_folder_that_is_not_a_run_directory_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="absent is not a folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"has no config\.yaml"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="cannot be read as YAML"):
        read_run(tmp_path)
    (tmp_path / "config.yaml").write_text("- a")
    with pytest.raises(ValueError, match="must hold settings by name, not list"):
        read_run(tmp_path)
