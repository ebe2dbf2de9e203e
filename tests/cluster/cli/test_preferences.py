import io
import math
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from rich.console import Console

from actors.config.preferences import TAKE_TIES, PreferencesConfig
from alignment.objectives.identity_preference import identity_preference
from alignment.objectives.kahneman_tversky import kahneman_tversky
from alignment.objectives.self_play import self_play
from alignment.preferences.direct_objectives import DIRECT, LEGEND
from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS
from cluster.cli.preferences import NAMES, markdown, print_objectives
from tests.alignment.divergences.records import f64
from tests.alignment.preferences.records import RECORDS

EVERYONE = "policy, discriminator, reward model"
USES = {
    "bradley_terry": ("DPO", "pairs", EVERYONE),
    "margin": ("", "pairs", "reward model"),
    "thurstone": ("", "pairs", EVERYONE),
    "learned_variance": ("", "pairs", "reward model"),
    "rao_kupper": ("DPO-RK", "pairs, ties", EVERYONE),
    "davidson": ("DPO-D", "pairs, ties", EVERYONE),
    "plackett_luce": ("", "pairs, rankings", EVERYONE),
    "classification": ("", "pairs", EVERYONE),
    "identity": ("IPO", "pairs, ties", "policy"),
    "kahneman_tversky": ("KTO", "single labels, pairs", "policy"),
    "self_play": ("SPIN", "demonstrations", "policy"),
}
"""Known as, labels, and what it trains."""
IDENTITY, KAHNEMAN_TVERSKY, SELF_PLAY = DIRECT


def shown(name):
    console = Console(file=io.StringIO(), width=240)
    print_objectives(console, name)
    return console.file.getvalue()


def value(formula, **symbols):
    """What a formula of the table comes to."""
    text = formula.replace("^", "**").replace(", else", " else")
    product = re.compile(r"\b(2|beta|\w+_weight) (?=[\w(])")
    known = {"e": math.e, "log": math.log, "sigmoid": lambda x: 1 / (1 + math.exp(-x))}
    return eval(product.sub(r"\1 * ", text), known, symbols)


def test_there_is_a_row_for_whatever_a_job_can_choose():
    choices = get_args(PreferencesConfig.model_fields["objective"].annotation)
    assert {name for literal in choices for name in get_args(literal)} == set(NAMES) == set(USES)


def test_the_list_says_of_each_what_it_is_known_as_takes_and_is_for():
    rows = [re.split(r"\s*│\s*", line)[1:5] for line in shown(None).splitlines() if "│" in line]
    assert {name: tuple(uses) for name, *uses in rows} == USES


@pytest.mark.parametrize("record", [*RECORDS, *DIRECT], ids=lambda record: record.name)
def test_one_objective_is_shown_with_all_that_is_known_of_it(record):
    text = " ".join(shown(record.name).split())
    for part in (
        record.formula,
        record.behavior,
        record.choose_when,
        record.avoid_when,
        record.parameters or "parameters none of its own",
        record.caveat or "",
        *(f"{use} " for use in USES[record.name] if use),
        LEGEND,
    ):
        assert part in text
    assert ("probability of the label" in text) == (record.name in PREFERENCE_LIKELIHOODS)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("margin", ["needs the strength of each", "default margin_per_strength = 1"]),
        ("learned_variance", ["needs a noise of each response"]),
        (
            "rao_kupper",
            [
                "default threshold = 3 reward models learn the share of ties",
                "further parameters beta = 0.1, label_smoothing = 0, weight = 1, sft_weight = 0",
            ],
        ),
        ("identity", ["further parameters beta = 0.1, weight = 1, sft_weight = 0 behavior"]),
        (
            "kahneman_tversky",
            ["default desirable_weight = 1, undesirable_weight = 1 further parameters beta"],
        ),
    ],
)
def test_what_it_needs_and_its_parameters_by_default_are_shown(name, rows):
    text = " ".join(shown(name).split())
    assert all(row in text for row in rows)
    assert ("further parameters" in text) == ("policy" in USES[name][2])
    assert ("reward models learn" in text) == (name in {"rao_kupper", "davidson"})


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("is_tie", [False, True])
def test_the_formula_of_identity_is_its_loss(beta, is_tie):
    l_i, l_j = 1.25, -0.5
    loss = identity_preference(
        f64(l_i, l_j), f64(0.0, 1.0 - is_tie), torch.tensor([0, 0]), beta=beta, num_comparisons=1
    ).loss
    formula = IDENTITY.formula.split("; a tie ")[is_tie]
    assert value(formula, l_i=l_i, l_j=l_j, beta=beta) == pytest.approx(loss.item())


@pytest.mark.parametrize("desirable", [False, True])
@pytest.mark.parametrize("log_ratio", [-0.5, 1.25])
def test_the_formula_of_kahneman_tversky_is_its_loss(desirable, log_ratio):
    settings = {"beta": 0.7, "desirable_weight": 2.0, "undesirable_weight": 3.0}
    ranks = f64(0.0 if desirable else 1.0)
    loss = kahneman_tversky(
        f64(log_ratio), ranks, reference_kl=0.3, num_sequences=1, **settings
    ).loss
    found = value(KAHNEMAN_TVERSKY.formula, l=log_ratio, z=0.3, desirable=desirable, **settings)
    assert found == pytest.approx(loss.item())


@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_the_formula_of_self_play_is_its_loss(beta):
    l_i, l_j = -0.5, 1.25
    loss = self_play(
        f64(l_i, l_j), f64(0.0, 1.0), torch.tensor([0, 0]), beta=beta, num_comparisons=1
    ).loss
    formula = SELF_PLAY.formula.removesuffix(", i the demonstration, j the policy's response")
    assert value(formula, l_i=l_i, l_j=l_j, beta=beta) == pytest.approx(loss.item())


def test_what_takes_ties_by_the_table_takes_them_in_a_run():
    assert {name for name, (_, labels, _) in USES.items() if "ties" in labels} == set(TAKE_TIES)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("identiy", "identity"),
        ("bradley-terry", "bradley_terry"),
        ("DPO", "bradley_terry"),
        ("dpo-rk", "rao_kupper"),
        ("ipo", "identity"),
        ("spin", "self_play"),
        ("KTO", "kahneman_tversky"),
    ],
)
def test_a_wrong_name_is_an_error_that_names_the_nearest(wrong, nearest):
    message = f"unknown preference objective '{wrong}'; did you mean {nearest}? choose one of"
    with pytest.raises(ValueError, match=re.escape(message)):
        shown(wrong)


def test_a_name_that_is_near_to_none_gets_the_list():
    with pytest.raises(ValueError, match=r"'xyz'; choose one of bradley_terry, .*kahneman_tversky"):
        shown("xyz")


def test_the_table_of_the_documents_is_well_formed_and_complete():
    table, legend = markdown().split("\n\n")
    assert legend.replace("\n", " ") == LEGEND
    assert max(map(len, legend.splitlines())) <= 100
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.splitlines()]
    assert rows[1] == ["---"] * 5
    formulas = {record.name: record.formula for record in (*RECORDS, *DIRECT)}
    for name, known_as, formula, *uses in rows[2:]:
        plain = name.strip("`")
        assert (known_as, *uses) == USES[plain]
        assert (name, formula) == (f"`{plain}`", f"`{formulas[plain]}`")
    assert len(rows) == 2 + len(USES)


def test_the_documents_hold_the_table():
    document = (Path(__file__).parents[3] / "alignment" / "README.md").read_text()
    assert markdown() in document
