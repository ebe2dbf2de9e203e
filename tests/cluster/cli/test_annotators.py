import io
import json

import pytest
from rich.console import Console

from actors.errors import InvalidInputError
from alignment.studies.annotator_study import LIKELIHOODS, Figure, Outcome
from alignment.studies.annotators import Annotators
from cluster.cli.annotators import run, show, write_figures

PNG = b"\x89PNG\r\n\x1a\n"
OUTCOMES = [
    Outcome("with ties", "uniform", "bradley_terry", Figure(0.91, 0.02), Figure(0.04, 0.003)),
    Outcome("with ties", "uniform", "davidson", Figure(0.93, 0.01), Figure(0.03, 0.001)),
    Outcome("with ties", "skewed", "bradley_terry", Figure(0.92, 0.01), Figure(0.035, 0.002)),
]


def printed(outcomes):
    console = Console(file=io.StringIO(), width=80)
    show(console, outcomes, num_seeds=4)
    return console.file.getvalue()


def test_both_tables_show_means_below_their_likelihoods():
    correlation, _, regret = printed(OUTCOMES).partition("2. Regret")
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
    lines = printed(OUTCOMES).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.strip() for line in lines if line.endswith("pairing") or "pairing  " in line] == [
        "uniform pairing",
        "skewed pairing",
    ] * 2


def test_figures_are_written_in_full_precision(tmp_path):
    write_figures(tmp_path / "figures.json", OUTCOMES)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures[1] == {
        "annotators": "with ties",
        "pairing": "uniform",
        "likelihood": "davidson",
        "rank_correlation": {"mean": 0.93, "standard_error": 0.01},
        "regret": {"mean": 0.03, "standard_error": 0.001},
    }
    assert len(figures) == len(OUTCOMES)


def test_the_command_leaves_a_picture_and_every_figure(tmp_path):
    console, out = Console(file=io.StringIO(), width=80), tmp_path / "new" / "folder"
    run(out, console, crowds=[Annotators("logistic")], seeds=[0, 1])
    figures = json.loads((out / "figures.json").read_text())
    assert [(each["pairing"], each["likelihood"]) for each in figures] == [
        (pairing, name) for pairing in ("uniform", "skewed") for name in LIKELIHOODS
    ]
    first = f"{figures[0]['rank_correlation']['mean']:.3f}"
    assert first in console.file.getvalue()
    assert (out / "annotators.png").read_bytes().startswith(PNG)


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InvalidInputError, match=r"cannot make the folder .*taken: File exists"):
        run(tmp_path / "taken", Console(file=io.StringIO()))
