import re
from html.parser import HTMLParser

import pytest

from alignment.report.run.metrics import summarize
from alignment.report.run.page import highlight, render_page, write_report
from alignment.report.run_files import read_run
from tests.alignment.report.small_run import CONFIG, METRICS, samples

ATTACK = "thou <script>alert('thee')</script> & <img src=x onerror=alert(1)>"


class Tags(HTMLParser):
    """Collects tags with their attributes, and the text between."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def report(folder):
    """The page without its plots, which take most of the time."""
    run = read_run(folder)
    return render_page(run, summarize(run), {})


def events(page):
    """Cells of the table of events, by row."""
    rows = page.partition('<table class="events">')[2].partition("</table>")[0].split("<tr>")[2:]
    return [re.findall("<td>(.*?)</td>", row) for row in rows]


def test_the_page_is_in_the_run_directory_and_is_self_contained(write_run):
    run = write_run()
    path = write_report(run)
    assert path == run / "report" / "index.html"
    tags = Tags(path.read_text()).tags
    sources = [attrs["src"] for tag, attrs in tags if tag == "img"]
    assert len(sources) == 8
    assert all(source.startswith("data:image/png;base64,iVBOR") for source in sources)
    assert not {tag for tag, _ in tags} & {"script", "link", "iframe", "object", "a"}


def test_untrusted_text_is_never_markup(write_run):
    hostile = [
        {**sample, **dict.fromkeys(("prompt", "expert", "response", "finish_reason"), ATTACK)}
        for sample in samples()
    ]
    evaluation = {"patterns": {"<script>x</script>": "thou|script"}}
    config = {**CONFIG, "name": ATTACK, "evaluation": evaluation}
    manifest = {"command": ATTACK, "events": [{"time_s": 1.0, "what": ATTACK}]}
    page = report(write_run(config=config, samples=hostile, manifest=manifest))
    parsed = Tags(page)
    assert "script" not in {tag for tag, _ in parsed.tags}
    assert all("onerror" not in attrs for _, attrs in parsed.tags)
    assert page.count("<mark>thou</mark> &lt;<mark>script</mark>&gt;alert(&#39;thee&#39;)") == 10
    assert ATTACK in parsed.text  # as the model wrote it


def test_highlight_joins_overlaps_and_ignores_empty_matches():
    patterns = [re.compile(p) for p in ("ab", "bc", "x*", "<")]
    assert highlight("abcd<ab", patterns) == (
        "<mark>ab</mark><mark>c</mark>d<mark>&lt;</mark><mark>ab</mark>"
    )
    nested = [re.compile(p) for p in ("abcd", "bc")]
    assert highlight("abcde", nested) == "<mark>abcd</mark>e"
    assert highlight("a & b", []) == "a &amp; b"


def test_tiles_and_tables_show_the_metrics(write_run):
    run = write_run()
    text = Tags(report(run)).text
    assert "4.000 \N{RIGHTWARDS ARROW} 2.500" in text
    assert "0% \N{RIGHTWARDS ARROW} 100%" in text
    assert "of responses; expert 100%, prompts 0%" in text
    assert "Reverse KL, KL(policy, expert): penalizes responses that are unlikely under" in text
    assert "learning rate 1e-06, strictly on-policy" in text
    assert f"irlign train {run}/config.yaml --run-dir {run}" in text
    assert "50% (9 to 91)" in text  # Wilson's interval of 1 in 2
    assert "[truncated]" in text
    assert "Median throughput in tokens per second: sampling 60, learning 115." in text
    assert "No check gave a warning." in text
    assert "divergence: reverse_kl" in text


def test_prompts_are_in_order_and_the_later_ones_are_collapsed(write_run):
    first = samples()[0]
    many = [{**first, "prompt_id": number, "prompt": f"p{number}."} for number in range(20, 0, -1)]
    page = report(write_run(samples=many))
    assert re.findall(r"p(\d+)\.", page) == [str(number) for number in range(1, 21)]
    assert "8 more prompts" in page
    assert page.index("p12.") < page.index("<details>") < page.index("p13.")


def test_a_phase_that_lacks_a_prompt_says_so(write_run):
    page = report(write_run(samples=samples()[:-1]))
    assert page.count("not sampled") == 1


def test_a_run_that_has_only_begun_says_what_is_missing(write_run):
    text = Tags(report(write_run(metrics=None, samples=None))).text
    for sentence in (
        "Not finished: 0 of 6 steps.",
        "There are no metrics to check yet.",
        "There is no metrics.jsonl yet.",
        "No responses on the evaluation set have been written yet.",
        "There are no texts to compare yet.",
        "No metrics have been written yet.",
        "No times have been written yet.",
        "No restarts or failures were recorded.",
    ):
        assert sentence in text


def test_an_unfinished_run_names_its_stage(write_run):
    text = Tags(report(write_run(metrics=METRICS[:5]))).text
    assert "Not finished: 4 of 6 steps in 20 s." in text
    assert "The last step so far is in the on-policy stage" in text


def test_the_contents_of_the_manifest_are_shown(write_run):
    manifest = {
        "started": "monday",
        "versions": {"torch": "2", "ray": "3"},
        "events": [{"time_s": 75.0, "what": "the learner was restarted"}, "odd"],
    }
    page = report(write_run(manifest=manifest))
    text = Tags(page).text
    assert "Startedmonday" in text
    assert "torch 2, ray 3" in text
    assert events(page) == [
        ["1 min 15 s", "the learner was restarted", "no later step", "\N{EN DASH}"]
    ]


def test_a_failed_run_shows_its_error_and_what_was_measured_of_the_step_that_died(write_run):
    ending = {
        "how": "failed",
        "iteration": 4,
        "error": "RewardError: prompt 3 <has none>",
        "metrics": {"rollout/tokens_per_s": 123.456, "reward/rank": 0.25},
    }
    manifest = {"ending": ending, "start_s": {"rollout": 41.2, "data": 3.0}}
    text = Tags(report(write_run(metrics=METRICS[:5], manifest=manifest))).text
    assert "Failed: 4 of 6 steps in 20 s." in text
    assert "The run failed after step 4: RewardError: prompt 3 <has none>." in text
    assert "rollout/tokens_per_s123.5" in text
    assert "reward/rank0.25" in text
    assert "The newest start took: rollout 41.2 s, data 3 s." in text


def test_a_stopped_run_says_so(write_run):
    manifest = {"ending": {"how": "stopped", "iteration": 4, "error": None, "metrics": {}}}
    text = Tags(report(write_run(metrics=METRICS[:5], manifest=manifest))).text
    assert "Stopped: 4 of 6 steps in 20 s." in text
    assert "The run stopped after step 4." in text


def test_an_event_after_the_last_step_so_far_waits_for_the_next(write_run):
    manifest = {"events": [{"time_s": 21.0, "what": "a worker was lost"}]}
    page = report(write_run(metrics=METRICS[:5], manifest=manifest))
    assert events(page) == [["21 s", "a worker was lost", "no step yet", "\N{EN DASH}"]]


def test_events_have_the_time_until_the_next_step(write_run):
    written = [
        (15.5, "a worker was lost"),
        (36.0, "the learner was restarted"),
        (70.0, "disk full"),
    ]
    manifest = {"is_finished": True, "events": [{"time_s": t, "what": w} for t, w in written]}
    times = [(1, 10.0), (2, 35.0), (3, 36.25), (4, 140.0)]
    metrics = [{"step": s, "stage": "on_policy", "time_s": t} for s, t in times]
    page = report(write_run(metrics=metrics, manifest=manifest))
    assert events(page) == [
        ["15.5 s", "a worker was lost", "19.5 s", "25 s"],
        ["36 s", "the learner was restarted", "0.25 s", "1.25 s"],
        ["1 min 10 s", "disk full", "1 min 10 s", "1 min 44 s"],
    ]


@pytest.mark.parametrize(
    ("trained", "conclusion"), [(32, "The counts add up."), (31, "The counts do not add up.")]
)
def test_the_counts_of_prompts_are_shown_and_checked(write_run, trained, conclusion):
    manifest = {
        "num_draws": 36,
        "trained_draws": trained,
        "dropped_draws": {"its reward failed": 4},
        "unfinished_draws": [],
    }
    text = Tags(report(write_run(manifest=manifest))).text
    assert (
        f"Up to the newest checkpoint, 36 prompts drawn: {trained} trained on, "
        f"4 dropped (its reward failed: 4), 0 in progress. {conclusion}"
    ) in text
    assert "No restarts or failures were recorded." in text


def test_a_configuration_of_one_setting_is_enough(write_run):
    assert "<h1>run</h1>" in report(write_run(config={"seed": 1}))


def test_a_report_can_be_written_again(write_run):
    run = write_run(metrics=None, samples=None)
    assert write_report(run).read_text() == write_report(run).read_text()


def test_a_missing_run_directory_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="is not a folder; name a run directory"):
        write_report(tmp_path / "nowhere")
