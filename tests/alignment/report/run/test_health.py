import math

import pytest

from alignment.report.run.health import health_notes, late_mean
from alignment.report.run.metrics import summarize
from alignment.report.run_files import read_run
from tests.alignment.report.small_run import CONFIG, METRICS, samples


def notes(write_run, **files):
    run = read_run(write_run(**files))
    return health_notes(run, summarize(run))


def rows(**metrics):
    """Nine on-policy steps; each metric a number, or one value for each third."""
    return [
        {
            "step": step,
            "stage": "on_policy",
            "time_s": step,
            **{
                name: values[step // 3] if isinstance(values, tuple) else values
                for name, values in metrics.items()
            },
        }
        for step in range(9)
    ]


def test_a_healthy_run_gets_no_warning(write_run):
    assert notes(write_run) == []


def test_late_mean_is_that_of_the_last_third(write_run):
    run = read_run(write_run(metrics=rows(**{"learner/behavior_kl": (9.0, 9.0, 0.5)})))
    assert late_mean(run, "learner/behavior_kl") == 0.5
    assert late_mean(run, "absent") is None


def test_a_stage_that_began_before_its_discriminator_was_ready_gives_a_warning(write_run):
    config = {**CONFIG, "discriminator": {"ready_auc": 0.65}}
    manifest = {"warm_up_end": 3, "warm_up_aucs": [0.5, 0.56]}
    (note,) = notes(write_run, config=config, manifest=manifest)
    assert "AUC on new samples was 0.530, below discriminator.ready_auc = 0.65" in note


@pytest.mark.parametrize("divergence", ["jensen_shannon", "forward_kl", "reverse_kl"])
def test_a_discriminator_that_is_too_strong_gives_a_warning_with_the_reason(write_run, divergence):
    config = {**CONFIG, "objective": {"divergence": divergence}}
    metrics = rows(**{"discriminator/accuracy_fresh": (0.6, 0.7, 0.96)})
    (note,) = notes(write_run, config=config, metrics=metrics)
    assert note.startswith("The discriminator is too strong: its accuracy is 96%")
    assert divergence.split("_")[-1].casefold() in note.casefold()


@pytest.mark.parametrize(
    ("metrics", "beginning"),
    [
        ({"discriminator/accuracy_fresh": 0.5}, "The accuracy of the discriminator is only 50%"),
        ({"rollout/truncated_fraction": 0.25}, "25% of the responses were truncated"),
        ({"learner/behavior_kl": 0.02}, "The KL divergence of sampler and learner is 0.02 nats"),
        ({"learner/importance_truncated_fraction": 0.2}, "20% of the importance weights"),
        ({"learner/logit_clipped_fraction": 0.2}, "20% of the discriminator's logits"),
        ({"learner/entropy": (2.0, 1.0, 0.5)}, "The entropy of the policy fell from 2.00 to 0.50"),
        ({"time/waiting_s": 4.0, "time/step_s": 10.0}, "40% of the time of all steps is waiting"),
        (
            {"eval/held_out_nll": (2.5, 2.0, 2.2)},
            "The NLL of the evaluation set rose from 2.000 at step 3",
        ),
        ({"learner/loss": math.nan}, "learner/loss was infinite or NaN in 9 steps"),
        (
            {"discriminator/calibration_expert": 0.4, "discriminator/calibration_policy": 0.2},
            "The discriminator D is miscalibrated",
        ),
        (
            {"discriminator/length_slope": -0.03, "rollout/response_length": 50.0},
            "The discriminator may depend on length: its logit falls by 0.03 nats per token, so sh",
        ),
        (
            {"discriminator/accuracy_fresh": 0.8, "discriminator/bag_of_words_accuracy": 0.79},
            "The reward may be a shortcut: a classifier of a bag of words alone has an accuracy of "
            "79%, the discriminator 80%",
        ),
        (
            {"discriminator/accuracy_fresh": 0.6, "discriminator/length_accuracy": 0.7},
            "The reward may be a shortcut: a classifier of response length alone",
        ),
    ],
)
def test_each_limit_gives_its_warning(write_run, metrics, beginning):
    (note,) = notes(write_run, metrics=rows(**metrics))
    assert note.startswith(beginning)


@pytest.mark.parametrize(
    "metrics",
    [
        {"discriminator/accuracy_fresh": 0.95},
        {"rollout/truncated_fraction": 0.09},
        {"eval/held_out_nll": (2.5, 2.0, 2.04)},
        {"discriminator/calibration_expert": 0.4, "discriminator/calibration_policy": 0.3},
        {"discriminator/length_slope": 0.01, "rollout/response_length": 50.0},
        {"time/waiting_s": 3.0, "time/step_s": 10.0},
    ],
)
def test_a_metric_within_its_limit_gives_no_warning(write_run, metrics):
    assert notes(write_run, metrics=rows(**metrics)) == []


def test_prompts_that_do_not_add_up_give_a_warning(write_run):
    manifest = {"num_draws": 9, "trained_draws": 6, "dropped_draws": {}, "unfinished_draws": [7, 8]}
    (note,) = notes(write_run, manifest=manifest)
    assert note.startswith(
        "The counts of prompts do not add up (9 prompts drawn: 6 trained on, 0 dropped, "
        "2 in progress): prompts were lost or trained on twice"
    )


def test_low_diversity_gives_a_warning(write_run):
    every = samples()
    repeated = [{**s, "response": "go go go go go"} for s in every if s["phase"] == "after"]
    (note,) = notes(write_run, metrics=METRICS, samples=[*every, *repeated])
    # two texts of "go go" four times: 1 of 8; the expert's pairs are all distinct
    assert "distinct-2 is 0.12, the expert's 1.00" in note


def test_copied_prompts_give_a_warning(write_run):
    copies = [{**s, "response": s["prompt"]} for s in samples()]
    assert notes(write_run, samples=copies) == ["100% of the responses repeat the prompt."]
