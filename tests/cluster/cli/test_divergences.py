import io
from pathlib import Path

import pytest
from rich.console import Console

from alignment.divergences.lookup import DIVERGENCES, LABELLED
from cluster.cli.divergences import EXAMPLES, LABELLED_HEADING, markdown, print_divergences


def shown(name):
    console = Console(file=io.StringIO(), width=200)
    print_divergences(console, name)
    return console.file.getvalue()


def test_the_list_has_every_divergence_and_sets_the_labelled_ones_apart():
    genuine, labelled = shown(None).split(LABELLED_HEADING)
    for name in DIVERGENCES:
        own, other = (labelled, genuine) if name in LABELLED else (genuine, labelled)
        assert f"│ {name} " in own
        assert f"│ {name} " not in other


@pytest.mark.parametrize("name", DIVERGENCES)
def test_one_divergence_is_shown_with_all_that_is_known_of_it(name):
    record = DIVERGENCES[name](**EXAMPLES.get(name, {}))
    text = " ".join(shown(name).split())
    for part in (
        record.formula,
        record.generator_formula,
        record.reward_formula,
        record.behavior,
        record.choose_when,
        record.avoid_when,
        record.parameters or "parameters none",
        record.caveat or "",
        f"clipped to {record.safe_logits[0]:.3g} .. {record.safe_logits[1]:.3g}",
    ):
        assert part in text


def test_own_function_is_shown_too_and_a_wrong_name_is_an_error():
    path = "tests.alignment.divergences.own_generators:square"
    assert "u f'(u) - f(u), u = e^h" in shown(path)
    with pytest.raises(ValueError, match="unknown divergence 'kl'"):
        shown("kl")


def test_the_reference_table_is_well_formed_and_complete():
    genuine, heading, labelled = markdown().split("\n\n")
    assert heading == f"{LABELLED_HEADING}:"
    for table, names in ((genuine, set(DIVERGENCES) - set(LABELLED)), (labelled, set(LABELLED))):
        rows = [line.split(" | ") for line in table.splitlines()]
        assert all(len(row) == 6 for row in rows)
        assert {row[0].strip("| `") for row in rows[2:]} == names


def test_the_documents_hold_the_table():
    document = (Path(__file__).parents[3] / "alignment" / "README.md").read_text()
    assert markdown().strip() in document
