"""Preferences that an objective cannot learn are refused before anything starts."""

import json

import pytest
from pydantic import ValidationError

from cluster.validation import preflight
from tests.cluster.validation.test_preflight import CLUSTER, error_of, job, place  # noqa: F401  # a fixture

PAIR = {"prompt": "a 1", "chosen": "b c", "rejected": "d"}
TIE = PAIR | {"tie": True}
RANKING = {"responses": ["b", "c", "d"], "ranks": [0, 1, 1]}
VERDICT = {"prompt": "a 1", "completion": "b c", "label": True}


def job_with(place, *rows, objective="bradley_terry", **more):  # noqa: F811
    numbered = [row | {"prompt": f"a {n}"} for n in range(8) for row in rows]
    file = place / "compared.jsonl"
    file.write_text("\n".join(map(json.dumps, numbered)))
    given = {"path": file, "objective": objective, **more}
    return job(place, preferences=given, objective={"divergence_weight": 0.0})


@pytest.mark.parametrize(
    ("rows", "objective"),
    [
        ([PAIR], "bradley_terry"),
        ([PAIR], "kahneman_tversky"),
        ([PAIR, TIE], "davidson"),
        ([PAIR, TIE], "identity"),
        ([VERDICT], "kahneman_tversky"),
    ],
)
def test_answers_that_the_objective_knows_pass(place, rows, objective):  # noqa: F811
    found = preflight.check_run(job_with(place, *rows, objective=objective), None, CLUSTER)
    assert len(found.comparisons.rows) == 8 * len(rows)
    assert [worker.kind for worker in found.plan.workers] == ["learner", "rollout"]


@pytest.mark.parametrize(
    ("rows", "objective", "complaint"),
    [
        (
            [PAIR, TIE],
            "bradley_terry",
            "holds 8 ties, to which preferences.objective bradley_terry",
        ),
        ([PAIR, TIE], "kahneman_tversky", "choose rao_kupper or davidson, or leave the ties out"),
        ([RANKING], "plackett_luce", "holds 8 ties, to which preferences.objective plackett_luce"),
        ([VERDICT], "bradley_terry", "labels of single responses, and preferences.objective"),
    ],
)
def test_answers_that_it_does_not_know_are_refused(place, rows, objective, complaint):  # noqa: F811
    assert complaint in error_of(job_with(place, *rows, objective=objective), place=None)


def test_a_divergence_that_implies_no_reward_is_refused_with_those_that_do(place):  # noqa: F811
    error = error_of(job_with(place, PAIR, divergence="total_variation"))
    assert error.startswith("preferences.divergence: total_variation cannot be the divergence of")
    assert "reverse_kl (DPO)" in error


@pytest.mark.parametrize("objective", ["learned_variance", "margin"])
def test_what_needs_more_than_ranks_is_for_reward_models(place, objective):  # noqa: F811
    error = error_of(job_with(place, PAIR, objective=objective))
    assert "irlign reward-model train" in error


def test_a_row_of_preferences_must_fit_a_microbatch(place):  # noqa: F811
    config = job_with(place, {"responses": ["b"] * 40}, objective="plackett_luce")
    tight = config.learner.model_copy(update={"max_tokens_per_microbatch": 24})
    error = error_of(config.model_copy(update={"learner": tight}))
    assert "more than learner.max_tokens_per_microbatch = 24" in error


def test_in_self_play_the_demonstration_needs_room_beside_the_group(place):  # noqa: F811
    sizes = {"objective": {"divergence_weight": 0.0, "group_size": 4}}
    room = {"learner": {"max_tokens_per_microbatch": 24}}  # 8 + 4 x 4
    assert job(place, **room, objective={"group_size": 4})
    with pytest.raises(ValidationError, match=r"8 \+ 5 x 4 = 28 tokens"):
        job(place, **room, **sizes, preferences={"objective": "self_play"})


def test_without_demonstrations_the_best_responses_are_them(place):  # noqa: F811
    config = job_with(place, PAIR)
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": None})})
    found = preflight.check_run(config, None, CLUSTER)
    assert [row.response for row in found.data.rows] == ["b c"] * 8
