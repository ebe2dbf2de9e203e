import io
import json

import pytest
from rich.console import Console
from transformers import AutoTokenizer

from alignment.data.comparisons import Comparison
from alignment.data.tokenized import TokenizedComparisons
from cluster.cli.check import print_comparisons, print_report
from cluster.config.job_file import load_job
from cluster.validation import preflight
from tests.fakes.tiny_job import save_tiny_job, save_tiny_tokenizer, write_rows

GREEN, RED, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[0m"


def colored():
    return Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")


@pytest.fixture
def tokenizer(tmp_path):
    save_tiny_tokenizer(tmp_path)
    return AutoTokenizer.from_pretrained(tmp_path)


def shown(rows, tokenizer, source=None):
    limits = {"max_prompt_tokens": 8, "max_response_tokens": 4}
    fixed = {"system_prompt": None, "held_out_fraction": 0.5, "seed": 0}
    data = TokenizedComparisons.tokenize(rows, tokenizer, **fixed, **limits)
    console = colored()
    print_comparisons(data, console, source)
    return data, console.file.getvalue()


def test_a_sample_shows_the_best_response_in_green_and_the_others_in_red(tokenizer):
    rows = [Comparison(prompt, ("b", "c [d]", ""), (0, 0, 1)) for prompt in "abcd"]
    data, text = shown(rows, tokenizer)
    prompt = rows[int(data.train_rows[0])].prompt
    assert f"user {prompt} assistant" in text
    assert f"{GREEN}b </s>{PLAIN}" in text
    assert f"{GREEN}c <unk> </s>{PLAIN}" in text
    assert f"{RED}</s>{PLAIN}" in text
    for remark in ("4 rankings", "up to 3 responses each", "4 with a tie", "4 with an empty resp"):
        assert remark in text


def test_single_labels_are_counted_by_value_and_their_format_is_named(tokenizer, tmp_path):
    rows = [Comparison(prompt, ("b",), (int(prompt == "d"),)) for prompt in "abcd"]
    source = tmp_path / "judged.jsonl"
    source.write_text('{"prompt": "a", "completion": "b", "label": true}')
    _, text = shown(rows, tokenizer, source)
    assert '4 single labels as "prompt" (text), "completion" (text), "label"' in text
    assert "3 desirable, 1 undesirable" in text


def test_equal_texts_strengths_and_domains_are_told(tokenizer):
    rows = [Comparison(p, ("b", "b"), (0, 1), strength=1.0, domain=p) for p in "abcd"]
    _, text = shown(rows, tokenizer)
    for remark in ("4 pairs", "4 with the same response twice", "4 with a strength", "4 domains"):
        assert remark in text
    assert "tie" not in text


def test_the_format_of_the_demonstrations_is_named(tmp_path):
    save_tiny_job(tmp_path)
    config = load_job(tmp_path / "job.yaml")
    console = colored()
    print_report(
        config, preflight.check_run(config, None, {"CPU": 8.0, "memory": 64.0 * 2**30}), console
    )
    text = console.file.getvalue()
    assert '20 demonstrations as "prompt" (text), "response" (text)' in text
    assert f"{GREEN}b c </s>{PLAIN}" in text


def test_rows_that_repeat_others_are_counted(tmp_path):
    save_tiny_job(tmp_path)
    rows = [{"prompt": f"a {i}", "response": "b c"} for i in range(20)]
    repeated = [rows[0], {"prompt": "a 1", "response": "d"}, {"prompt": "A  2 ", "response": "d"}]
    write_rows(tmp_path, [*rows, *repeated])
    config = load_job(tmp_path / "job.yaml")
    console = colored()
    print_report(
        config, preflight.check_run(config, None, {"CPU": 8.0, "memory": 64.0 * 2**30}), console
    )
    text = console.file.getvalue()
    assert "1 equal to an earlier row\n" in text
    assert "1 with the prompt of an earlier row and another response\n" in text
    assert "1 with the prompt of an earlier row in other case, white space" in text


def test_what_nothing_is_learned_from_is_told(tmp_path):
    save_tiny_job(tmp_path)
    turns = [
        {"role": role, "content": "a", "tool_calls": [{"name": "f"}] * (i == 1), "weight": None}
        for i, role in enumerate(["user", "assistant", "user", "assistant"] * 2)
    ]
    rows = [{"messages": turns, "tools": [{"type": "function"}], "id": 3}] * 20
    rows = [{**row, "messages": [*row["messages"]]} for row in rows]
    for index, row in enumerate(rows):
        row["messages"][0] = {"role": "user", "content": f"a {index}"}
    write_rows(tmp_path, rows)
    settings = ["data.max_prompt_tokens=30"]
    config = load_job(tmp_path / "job.yaml", settings)
    console = colored()
    print_report(config, preflight.check_run(config, None, {"CPU": 8.0}), console)
    text = console.file.getvalue()
    assert "60 earlier messages of the assistant are part of prompts" in text
    assert "no effect: messages.tool_calls, tools, id" in text


def test_every_token_at_which_sampling_stops_is_told(tmp_path):
    save_tiny_job(tmp_path)
    config = load_job(tmp_path / "job.yaml")
    for ids, expected in ((1, "responses end with </s>\n"), ([2, 1], "also stops at user, which")):
        (tmp_path / "model/generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
        console = colored()
        print_report(config, preflight.check_run(config, None, {"CPU": 8.0}), console)
        assert expected in console.file.getvalue()


def test_rewards_that_only_rank_are_no_objective_of_their_own(tmp_path):
    save_tiny_job(tmp_path)
    findings = preflight.check_run(load_job(tmp_path / "job.yaml"), None, {"CPU": 8.0})
    ranked = [
        "preferences={objective: bradley_terry}",
        "rewards=[{function: 'module:name'}]",
        "objective.divergence_weight=0",
    ]
    console = colored()
    print_report(load_job(tmp_path / "job.yaml", ranked), findings, console)
    text = " ".join(console.file.getvalue().split())
    assert "preferences between its own responses, ranked by rewards." in text
    assert "rewards and" not in text
