import io
import json

import pytest
from rich.console import Console

from actors.errors import InvalidInputError
from alignment.studies.annotator_study import LIKELIHOODS, LikelihoodResult, MeanEstimate
from alignment.studies.annotators import Annotators
from cluster.cli.annotators import print_annotators, run_annotator_study, write_metrics

PNG = b"\x89PNG\r\n\x1a\n"
RESULTS = [
    LikelihoodResult(
        "with ties", "uniform", "bradley_terry", MeanEstimate(0.91, 0.02), MeanEstimate(0.04, 0.003)
    ),
    LikelihoodResult(
        "with ties", "uniform", "davidson", MeanEstimate(0.93, 0.01), MeanEstimate(0.03, 0.001)
    ),
    LikelihoodResult(
        "with ties", "skewed", "bradley_terry", MeanEstimate(0.92, 0.01), MeanEstimate(0.035, 0.002)
    ),
]


def printed(results):
    console = Console(file=io.StringIO(), width=80)
    print_annotators(console, results, num_seeds=4)
    return console.file.getvalue()


def test_both_tables_show_means_below_their_likelihoods():
    correlation, _, regret = printed(RESULTS).partition("2. Regret")
    for table, uniform, skewed in (
        (correlation, ["0.910", "0.930"], ["0.920"]),
        (regret, ["0.040", "0.030"], ["0.035"]),
    ):
        lines = table.splitlines()
        rows = [line for line in lines if line.startswith("with ties")]
        assert [row.removeprefix("with ties").split() for row in rows] == [uniform, skewed]
        head = next(line for line in lines if line.startswith("annotators"))
        davidson = rows[0].index(uniform[1]) + len(uniform[1])
        assert head[davidson - 3 : davidson] == "son"
    assert "Means of 4 seeds; standard errors are 0.020 at most." in correlation
    assert "standard errors are 0.003 at most." in regret


def test_tables_fit_eighty_columns_and_pairings_have_headings():
    lines = printed(RESULTS).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.strip() for line in lines if line.endswith("pairing") or "pairing  " in line] == [
        "uniform pairing",
        "skewed pairing",
    ] * 2


def test_metrics_are_written_in_full_precision(tmp_path):
    write_metrics(tmp_path / "metrics.json", RESULTS)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics[1] == {
        "annotators": "with ties",
        "pairing": "uniform",
        "likelihood": "davidson",
        "rank_correlation": {"mean": 0.93, "standard_error": 0.01},
        "regret": {"mean": 0.03, "standard_error": 0.001},
    }
    assert len(metrics) == len(RESULTS)


def test_the_command_writes_a_plot_and_all_metrics(tmp_path):
    console, out = Console(file=io.StringIO(), width=80), tmp_path / "new" / "folder"
    run_annotator_study(out, console, groups=[Annotators("logistic")], seeds=[0, 1])
    metrics = json.loads((out / "metrics.json").read_text())
    assert [(each["pairing"], each["likelihood"]) for each in metrics] == [
        (pairing, name) for pairing in ("uniform", "skewed") for name in LIKELIHOODS
    ]
    first = f"{metrics[0]['rank_correlation']['mean']:.3f}"
    assert first in console.file.getvalue()
    assert (out / "annotators.png").read_bytes().startswith(PNG)


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InvalidInputError, match=r"cannot make the folder .*taken: File exists"):
        run_annotator_study(tmp_path / "taken", Console(file=io.StringIO()))
