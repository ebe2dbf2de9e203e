"""A run notices that its data, chat template or tokenizer have changed."""

import json

import pytest

from actors.errors import InvalidInputError
from cluster.config.datasets import load_data
from cluster.config.job_file import load_job
from cluster.run_state.data_digests import (
    changed_data,
    data_digests,
    read_digests,
    refuse_changed_data,
    write_digests,
)
from cluster.validation.preflight import check_run
from tests.fakes.tiny_job import CHAT_TEMPLATE, save_tiny_job, write_rows

CLUSTER = {"CPU": 8.0, "memory": 64.0 * 2**30}
ROWS = [{"prompt": f"a {i}", "response": "b c"} for i in range(20)]


@pytest.fixture
def run_dir(tmp_path):
    save_tiny_job(tmp_path)
    folder = tmp_path / "run"
    folder.mkdir()
    write_digests(folder, digests(tmp_path))
    return folder


def digests(place, *settings):
    config = load_job(place / "job.yaml", settings)
    return data_digests(config, load_data(config))


def changes(run_dir, *settings):
    return changed_data(read_digests(run_dir), digests(run_dir.parent, *settings))


def test_the_same_rows_are_the_same_data_wherever_they_are_and_however_they_are_written(run_dir):
    place = run_dir.parent
    assert changes(run_dir) == []
    (place / "moved.json").write_text(json.dumps(ROWS, indent=2))
    assert changes(run_dir, "data.path=moved.json") == []


def test_a_removed_and_an_edited_row_are_told_with_the_number_of_rows(run_dir):
    place = run_dir.parent
    write_rows(place, ROWS[1:])
    assert changes(run_dir) == [f"{place}/data.jsonl has changed, 20 rows before, 19 now"]
    write_rows(place, [*ROWS[:-1], {"prompt": "a 19", "response": "b d"}])
    (told,) = changes(run_dir)
    assert told == f"{place}/data.jsonl has changed, 20 rows as before, of which some differ"
    (place / "data.jsonl").rename(place / "else.jsonl")
    (told,) = changes(run_dir, "data.path=else.jsonl")
    assert told.startswith(f"{place}/else.jsonl (before: {place}/data.jsonl) has changed, 20 rows")


def test_the_order_of_the_rows_is_part_of_the_data(run_dir):
    write_rows(run_dir.parent, ROWS[::-1])
    assert len(changes(run_dir)) == 1


def test_a_changed_template_and_a_changed_tokenizer_are_told_apart(run_dir):
    place = run_dir.parent
    template = place / "model/chat_template.jinja"
    assert template.read_text() == CHAT_TEMPLATE
    template.write_text("{{ 'a ' }}" + CHAT_TEMPLATE)
    (told,) = changes(run_dir)
    assert told.startswith("the chat template of the tokenizer has changed; the rows of")
    template.write_text(CHAT_TEMPLATE)
    vocabulary = place / "model/tokenizer.json"
    text = vocabulary.read_text()
    vocabulary.write_text(text.replace('"b": 5', '"b": 6').replace('"c": 6', '"c": 5'))
    assert vocabulary.read_text() != text
    (told,) = changes(run_dir)
    assert "have other tokens or another split than before, because the tokenizer," in told


def test_changed_data_are_refused_or_accepted_by_the_checks(run_dir):
    place = run_dir.parent
    config = load_job(place / "job.yaml")
    write_rows(place, ROWS[1:])
    with pytest.raises(InvalidInputError) as raised:
        refuse_changed_data(run_dir, changes(run_dir))
    assert str(raised.value) == (
        f"{run_dir} was trained on other data: {place}/data.jsonl has changed, 20 rows before, 19 "
        "now. Restore them, or resume on the changed data with --accept-changed-data"
    )
    (run_dir / "config.yaml").write_text(config.model_dump_json())
    with pytest.raises(InvalidInputError, match="20 rows before, 19 now"):
        check_run(config, run_dir, CLUSTER)
    report = check_run(config, run_dir, CLUSTER, accept_changed_data=True)
    assert report.changed_data == changes(run_dir)
    write_digests(run_dir, report.digests)
    assert check_run(config, run_dir, CLUSTER).changed_data == []


def test_a_run_without_digests_takes_the_data_as_they_are_and_damaged_ones_are_named(run_dir):
    (run_dir / "data.json").write_text("{")
    with pytest.raises(InvalidInputError, match=r"data\.json is damaged"):
        read_digests(run_dir)
    (run_dir / "data.json").unlink()
    assert changes(run_dir) == []


def test_a_metric_that_comes_later_leaves_the_data_as_they_are(run_dir):
    assert changes(run_dir, "evaluation.metric=any:function") == []
