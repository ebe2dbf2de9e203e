import csv
import io

import pytest
from rich.console import Console

from actors.errors import InvalidInputError
from alignment.studies.two_modes import chain_logits, policy_metrics, two_mode_problem
from alignment.studies.two_modes_fit import DivergenceFit, Restart
from cluster.cli.modes import (
    TwoModeResults,
    print_two_modes,
    run_two_mode_study,
    write_restarts,
)

PNG = b"\x89PNG\r\n\x1a\n"
SHORT = two_mode_problem(length=3)
ON_A, ON_B = (policy_metrics(SHORT, chain_logits(step, 0.06)) for step in (1, -1))
LOCKED = DivergenceFit(
    "reverse_kl", None, (Restart(0.5, ON_A), Restart(0.9, ON_B), Restart(0.9, ON_B))
)
UNANIMOUS = DivergenceFit("forward_kl", "policy", (Restart(1.5, ON_A),))
RESULTS = TwoModeResults([LOCKED], [UNANIMOUS], {0.15: [LOCKED]})


def printed(results):
    console = Console(file=io.StringIO(), width=80)
    print_two_modes(console, SHORT, results)
    return console.file.getvalue()


def values_after(name, text):
    """The numbers of the first line that starts with this name."""
    line = next(line for line in text.splitlines() if line.startswith(name))
    return [float(word) for word in line.removeprefix(name).split()]


def test_a_row_shows_the_best_restart_and_below_it_those_on_the_other_mode():
    text = printed(RESULTS)
    whole = (ON_A.forward_kl, ON_A.reverse_kl, ON_A.coverage, ON_A.quality, ON_A.entropy)
    shares = (ON_A.first_mode, ON_A.precision, ON_A.recall)
    assert values_after("reverse KL", text) == pytest.approx([0.5, *whole, *shares], abs=5e-4)
    other = values_after("  2 of 3 restarts", text)
    assert other[:2] == pytest.approx([0.9, ON_B.forward_kl], abs=5e-4)
    assert text.count("restarts ") == 1 + text.count("shows the restarts that")
    assert max(map(len, text.splitlines())) <= 80


def test_rows_of_next_tokens_are_below_the_heading_of_their_states():
    lines = printed(RESULTS).splitlines()
    place = next(i for i, line in enumerate(lines) if line.startswith("own states"))
    assert lines[place + 1].startswith("forward KL")


def test_the_overlap_is_shown_by_slip():
    assert values_after("0.15", printed(RESULTS)) == pytest.approx([ON_A.first_mode], abs=5e-4)


def test_the_file_has_a_line_for_every_restart_in_full_precision(tmp_path):
    write_restarts(tmp_path / "modes.csv", RESULTS)
    with (tmp_path / "modes.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["divergence"], row["states"], row["restart"]) for row in rows] == [
        *(("reverse_kl", "whole responses", str(rank)) for rank in (1, 2, 3)),
        ("forward_kl", "policy", "1"),
        *(("reverse_kl", "whole responses", str(rank)) for rank in (1, 2, 3)),
    ]
    assert [(row["response_tokens"], row["slip"]) for row in rows[3:5]] == [
        ("8", "0.06"),
        ("7", "0.15"),
    ]
    assert float(rows[1]["forward_kl"]) == ON_B.forward_kl


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InvalidInputError, match=r"cannot make the folder .*taken: File exists"):
        run_two_mode_study(tmp_path / "taken", Console(file=io.StringIO()))


@pytest.mark.slow
def test_the_command_reproduces_the_golden_tables(tmp_path):
    console = Console(file=io.StringIO(), width=80)
    run_two_mode_study(tmp_path / "new" / "folder", console)
    text = console.file.getvalue()
    responses, tokens = text.partition("2. Minimizing")[::2]
    assert "entropy 4.109 nats" in text
    for name, values in {  # forward KL, reverse KL
        "forward KL": (3.180, 4.628),
        "Pearson chi\N{SUPERSCRIPT TWO}": (3.260, 5.048),
        "squared Hellinger": (9.228, 0.511),
        "Jensen-Shannon": (9.239, 0.511),
        "reverse KL": (9.242, 0.511),
    }.items():
        assert tuple(values_after(name, responses)[1:3]) == values
    assert values_after("total variation", responses)[0] == 0.4
    own = tokens.partition("own states")[2]
    assert values_after("forward KL", own)[1:3] == [4.757, 1.376]
    assert values_after("Jensen-Shannon", own)[1:3] == [6.672, 0.655]
    assert values_after("reverse KL", own)[1:3] == [7.492, 0.563]
    assert values_after("0.15", text) == [0.681, 0.997, 0.997]
    assert values_after("0.30", text) == [0.654, 0.929, 0.950]
    assert values_after("0.45", text) == [0.627, 0.670, 0.704]
    assert (tmp_path / "new" / "folder" / "modes.png").read_bytes().startswith(PNG)
    lines = (tmp_path / "new" / "folder" / "modes.csv").read_text().splitlines()
    assert len(lines) == 1 + 6 * (6 + 7 + 9)
