import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from actors.config.learner import LearnerConfig
from actors.config.reward_model import RewardModelSettings
from actors.config.scorers import DiscriminatorConfig
from actors.reward_model.files import load_reward_model, save_reward_model
from actors.reward_model.member import FEATURES, HELD_OUT, rows_of_steps, train_member
from actors.reward_model.trainer import RewardModelTrainer
from actors.rewards.model_worker import RewardModelWorker
from actors.rewards.sources import member_folder
from alignment.preferences.labelled_pairs import pairs_of_responses, untied_accuracies
from alignment.preferences.likelihood_loss import learned_likelihood, log_likelihoods
from alignment.preferences.lookup import PREFERENCE_LIKELIHOODS
from tests.fakes.process_group import join_process_group
from tests.fakes.tiny_comparisons import tiny_comparisons, tokenized
from tests.fakes.tiny_job import save_tiny_model

CPU = torch.device("cpu")
ONE = {"device": CPU, "rank": 0, "world_size": 1}
PARAMETERS = {"margin": {"margin_per_strength": 1.0}, "thurstone": {"scale": 1.0}}
WITH_TIES = ("rao_kupper", "davidson")


def settings_for(model, likelihood="bradley_terry", *, max_tokens=4096, **more):
    changes = {"num_members": 1, "num_epochs": 1, "comparisons_per_step": 8, "seed": 0} | more
    discriminator = {"learning_rate": 3e-4} | changes.pop("discriminator", {})
    return RewardModelSettings(
        model=str(model),
        likelihood=likelihood,
        likelihood_parameters=PARAMETERS.get(likelihood, {}),
        discriminator=DiscriminatorConfig(**discriminator),
        learner=LearnerConfig(autocast="float32", max_tokens_per_microbatch=max_tokens),
        **changes,
    )


def silent(_metrics):
    """Hear a report."""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny_model(folder)
    return folder


def data_for(model, likelihood, num_rows=20):
    sizes = (2, 3, 4) if likelihood == "plackett_luce" else (2, 2, 3)
    rows = tiny_comparisons(num_rows, sizes=sizes, with_ties=likelihood in WITH_TIES)
    return tokenized(rows, model)


def with_random_head(trainer):
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        shape = trainer.model.head.weight.shape
        trainer.model.head.weight.copy_(torch.randn(shape, generator=rng))
    return trainer


def trainer_for(model, data, likelihood="bradley_terry", member=0, **more):
    return RewardModelTrainer(data, settings_for(model, likelihood, **more), member, **ONE)


def test_it_learns_which_responses_are_preferred(model):
    data = tokenized(tiny_comparisons(300), model)
    trainer = trainer_for(model, data)
    steps = rows_of_steps(data.train_rows, settings_for(model, num_epochs=4), 0)
    metrics = [trainer.update(rows, step, len(steps)) for step, rows in enumerate(steps)]
    assert metrics[0]["accuracy"] == 0.5  # the head is zero
    assert metrics[0]["loss"] == pytest.approx(np.log(2))
    outputs, _ = trainer.measure(data.held_out_rows, silent)
    pairs = pairs_of_responses(data.select(data.held_out_rows))
    order = untied_accuracies(torch.from_numpy(outputs[:, 0]), pairs)
    assert len(order) > 60
    assert order.mean() > 0.95


def plain_outputs(model, data, rows, head):
    """[response, output] by the model as transformers runs it, one response alone."""
    backbone = AutoModel.from_pretrained(model)
    backbone.get_input_embeddings().requires_grad_(False)
    trajectories = data.select(rows).trajectories
    states = []
    for index in range(len(trajectories)):
        tokens = [*trajectories.prompt(index), *trajectories.response(index)]
        states.append(backbone(torch.tensor([tokens]).long()).last_hidden_state[0, -1])
    return torch.stack(states) @ head.T, [*backbone.parameters(), head]


@pytest.mark.parametrize("likelihood", PREFERENCE_LIKELIHOODS)
def test_a_step_follows_the_plain_likelihood_of_each_response_alone(model, likelihood):
    data = data_for(model, likelihood)
    trainer = with_random_head(trainer_for(model, data, likelihood, max_tokens=40))
    head = trainer.model.head.weight.detach().clone().requires_grad_()
    log_tie = trainer.log_tie.detach().clone().requires_grad_()
    rows = data.train_rows[:7]
    metrics = trainer.update(rows, 0, 10)

    outputs, parameters = plain_outputs(model, data, rows, head)
    record = learned_likelihood(likelihood, PARAMETERS.get(likelihood, {}), log_tie)
    sizes = data.sizes[rows].tolist()
    pairs = pairs_of_responses(data.select(rows))
    assert [pairs.strengths[pairs.comparisons == n][0] for n in range(7)] == [
        data.rows[row].strength for row in rows
    ]
    loss = -log_likelihoods(outputs, pairs, record).means().sum() / 7
    if outputs.shape[1] == 2:
        weights = torch.tensor([1 / size for size in sizes for _ in range(size)])
        loss = loss + 0.01 * (weights * outputs[:, 1].square()).sum() / 7
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(parameters, 1e9)
    assert metrics["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    order = untied_accuracies(outputs[:, 0], pairs)
    assert metrics["accuracy"] == pytest.approx(float(order.nanmean()))
    # Adam's first step has the size of the rate, against the gradient.
    moved = float(trainer.log_tie.detach() - log_tie.detach())
    rate = 30 * metrics["learning_rate"]
    assert moved == pytest.approx(-rate * np.sign(float(log_tie.grad or 0.0)), rel=1e-3)


def test_a_score_depends_neither_on_padding_nor_on_the_rest_of_the_batch(model):
    data = data_for(model, "bradley_terry")
    every = np.arange(len(data.rows))
    together, _ = with_random_head(trainer_for(model, data)).measure(every, silent)
    trainer = with_random_head(trainer_for(model, data, max_tokens=40))
    np.testing.assert_allclose(trainer.measure(every, silent)[0], together, atol=1e-5)
    for row in (0, 2, 7):
        alone, _ = trainer.measure(np.asarray([row]), silent)
        own = together[data.trajectories.prompt_ids == row]
        np.testing.assert_allclose(alone, own, atol=1e-5)
    with torch.no_grad():  # and each response without those beside it
        backbone = AutoModel.from_pretrained(model)
        for index in range(6):
            prompt, response = data.trajectories.prompt(index), data.trajectories.response(index)
            tokens = torch.tensor([[*prompt, *response]]).long()
            state = backbone(tokens).last_hidden_state[0, -1]
            expected = float(trainer.model.head(state)[0])
            assert together[index, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("likelihood", ["learned_variance", "davidson", "plackett_luce"])
def test_the_size_of_microbatches_changes_nothing(model, likelihood):
    data = data_for(model, likelihood)
    found = []
    for max_tokens in (40, 4096):
        trainer = trainer_for(model, data, likelihood, max_tokens=max_tokens)
        metrics = [trainer.update(data.train_rows[:9], step, 4) for step in range(4)]
        outputs, _ = trainer.measure(data.held_out_rows, silent)
        found.append((metrics, outputs, float(trainer.log_tie.detach())))
    (small, some, tie), (large, others, other_tie) = found
    for one, other in zip(small, large, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(some, others, atol=1e-4)
    assert tie == pytest.approx(other_tie, abs=1e-6)


def test_a_row_that_is_drawn_twice_counts_twice(model):
    data = data_for(model, "bradley_terry")
    row, other = data.train_rows[:2]
    one, two = (data.select(np.asarray([each])).trajectories for each in (row, other))
    # A microbatch that holds either of them once, and none of them twice.
    limit = max(each.lengths.sum() - each.prompt_lengths[1:].sum() for each in (one, two))
    metrics = []
    for rows in ([row, row, other], [row, other, row]):
        trainer = with_random_head(trainer_for(model, data, max_tokens=int(limit)))
        metrics.append(trainer.update(np.asarray(rows), 0, 1))
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)
    once = [
        with_random_head(trainer_for(model, data)).update(np.asarray([each]), 0, 1)["loss"]
        for each in (row, other)
    ]
    assert metrics[0]["loss"] == pytest.approx((2 * once[0] + once[1]) / 3, rel=1e-5)


def test_one_member_sees_every_row_once_an_epoch_and_several_a_resample_each(model):
    train_rows = np.arange(100, 150)
    steps = rows_of_steps(train_rows, settings_for(model, num_epochs=2), 0)
    assert [len(rows) for rows in steps] == [8] * 12 + [4]
    draws = np.concatenate(steps)
    first, second = draws[:50], draws[50:]
    assert sorted(first) == sorted(second) == train_rows.tolist()
    assert first.tolist() != second.tolist()
    several = settings_for(model, num_members=2, num_epochs=2)
    samples = []
    for member in range(2):
        draws = np.concatenate(rows_of_steps(train_rows, several, member))
        assert sorted(draws[:50]) == sorted(draws[50:])
        samples.append(sorted(draws[:50].tolist()))
        assert 0.5 < len(set(samples[-1])) / 50 < 0.8  # 1 - 1/e = 0.63 expected
    assert samples[0] != samples[1]


@pytest.mark.parametrize("tuning", ["full", "lora", "frozen"])
@pytest.mark.parametrize("likelihood", ["bradley_terry", "learned_variance"])
def test_a_worker_serves_what_was_trained(model, tmp_path, tuning, likelihood):
    data = data_for(model, likelihood)
    config = {"tuning": tuning, "num_layers": 1, "learning_rate": 1e-2}
    trainer = trainer_for(model, data, likelihood, discriminator=config)
    for step in range(3):
        trainer.update(data.train_rows, step, 3)
    outputs, _ = trainer.measure(data.held_out_rows, silent)
    save_reward_model(tmp_path / "reward", trainer.model, source=str(model), rank=0)
    worker = RewardModelWorker(str(tmp_path / "reward"), str(model))
    responses = data.select(data.held_out_rows).trajectories
    rewards = worker.score(responses, [""] * len(responses))
    np.testing.assert_allclose(rewards, outputs[:, 0], atol=1e-4)
    assert np.ptp(rewards) > 0.1


def test_a_policy_with_other_tokens_is_read_as_text(model, tmp_path):
    rows = data_for(model, "bradley_terry").rows
    words = [
        row._replace(prompt=prompt)
        for row, prompt in zip(rows[:3], ("a b", "c", "d d"), strict=True)
    ]
    data = tokenized([*words, *rows[3:]], model)
    trainer = with_random_head(trainer_for(model, data))
    outputs, _ = trainer.measure(np.arange(3), silent)
    save_reward_model(tmp_path / "reward", trainer.model, source=str(model), rank=0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["e"])
    tokenizer.chat_template = None  # a base model, to which the prompt is its bare text
    tokenizer.save_pretrained(tmp_path / "policy")
    responses = tokenized(data.rows, tmp_path / "policy").select(np.arange(3)).trajectories
    worker = RewardModelWorker(str(tmp_path / "reward"), str(tmp_path / "policy"))
    rewards = worker.score(responses, [""] * len(responses))
    np.testing.assert_allclose(rewards, outputs[:, 0], atol=1e-4)


def test_a_tokenizer_that_pads_with_its_end_token_leaves_the_end_token_to_be_read(tmp_path):
    save_tiny_model(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "model")
    data = data_for(tmp_path / "model", "bradley_terry")
    trainer = with_random_head(trainer_for(tmp_path / "model", data))
    outputs, _ = trainer.measure(np.asarray([0]), silent)
    save_reward_model(tmp_path / "r", trainer.model, source=str(tmp_path / "model"), rank=0)
    loaded = load_reward_model(str(tmp_path / "r"))
    tokens = torch.tensor([[*data.trajectories.prompt(0), *data.trajectories.response(0)]]).long()
    with torch.no_grad():  # as anybody uses it, without irlign
        assert float(loaded(input_ids=tokens).logits) == pytest.approx(outputs[0, 0], abs=1e-4)


def test_an_ensemble_serves_the_mean_of_its_members(model, tmp_path):
    data = data_for(model, "bradley_terry")
    own = []
    for member in (0, 1, 10):
        trainer = trainer_for(model, data, member=member)
        with torch.no_grad():
            trainer.model.head.weight.fill_(member + 1.0)
        folder = member_folder(tmp_path, member)
        save_reward_model(folder, trainer.model, source=str(model), rank=0)
        own.append(trainer.measure(data.held_out_rows, silent)[0][:, 0])
    (tmp_path / "member-11.partial").mkdir()  # one that is being written
    worker = RewardModelWorker(str(tmp_path), str(model))
    responses = data.select(data.held_out_rows).trajectories
    np.testing.assert_allclose(worker.member_scores(responses), own, rtol=1e-4, atol=1e-4)
    rewards = worker.score(responses, [""] * len(responses))
    np.testing.assert_allclose(rewards, np.mean(own, axis=0), rtol=1e-4, atol=1e-4)


def test_a_member_writes_its_model_its_outputs_and_its_features(model, tmp_path):
    data = data_for(model, "davidson")
    reports = []
    settings = settings_for(model, "davidson", num_epochs=2)
    folder = train_member(data, settings, 0, tmp_path, reports.append, **ONE)
    steps = [report for report in reports if report]
    assert len(steps) == len(rows_of_steps(data.train_rows, settings, 0))
    held_out_outputs = json.loads((folder / HELD_OUT).read_text())
    scored = load_reward_model(str(folder))
    columns = load_file(tmp_path / FEATURES)
    held_out = columns["is_held_out"] == 1
    np.testing.assert_array_equal(np.unique(columns["rows"][held_out]), data.held_out_rows)
    np.testing.assert_array_equal(np.unique(columns["rows"][~held_out]), data.train_rows)
    # A score is the head's product with the features.
    head = scored.score.weight.detach().numpy()
    scores = columns["features"] @ head[0]
    np.testing.assert_allclose(scores[held_out], held_out_outputs["scores"], atol=1e-5)
    np.testing.assert_array_equal(columns["ranks"][held_out], data.select(data.held_out_rows).ranks)
    assert held_out_outputs["log_scales"] is None


RUNS = ["learned_variance", "davidson", "plackett_luce"]
TUNINGS = ["full", "lora", "frozen"]


def train_on(model, likelihood, rank, world_size):
    """Two steps, the last with a single row, and all that is measured."""
    data = data_for(model, likelihood)
    tuning = TUNINGS[RUNS.index(likelihood)]
    settings = settings_for(model, likelihood, max_tokens=40, discriminator={"tuning": tuning})
    trainer = RewardModelTrainer(data, settings, 0, device=CPU, rank=rank, world_size=world_size)
    metrics = [
        trainer.update(rows, step, 3)
        for step, rows in enumerate([data.train_rows, data.train_rows[:1], data.train_rows[:5]])
    ]
    outputs, features = trainer.measure(data.held_out_rows[:3], silent, with_features=True)
    return metrics, outputs, features, float(trainer.log_tie.detach()), trainer


def main(folder, rank):
    """Be one of two processes."""
    torch.set_num_threads(1)
    join_process_group(rank, 2, f"{folder}/meeting")
    found = []
    for likelihood in RUNS:
        *result, trainer = train_on(folder / "model", likelihood, rank, 2)
        target = folder / likelihood
        save_reward_model(target, trainer.model, source=str(folder / "model"), rank=rank)
        found.append(result)
    torch.distributed.barrier()  # a rank that leaves while the other still talks to it may abort
    torch.distributed.destroy_process_group()
    if rank == 0:
        torch.save(found, folder / "found.pt")


@pytest.mark.processes
def test_two_ranks_equal_one(tmp_path):
    save_tiny_model(tmp_path / "model")
    root = Path(__file__).parents[3]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(tmp_path), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    found = torch.load(tmp_path / "found.pt", weights_only=False)
    for likelihood, (metrics, outputs, features, log_tie) in zip(RUNS, found, strict=True):
        *one, trainer = train_on(tmp_path / "model", likelihood, 0, 1)
        for theirs, mine in zip(metrics, one[0], strict=True):
            assert theirs == pytest.approx(mine, rel=1e-4, abs=1e-5, nan_ok=True)
        np.testing.assert_allclose(outputs, one[1], atol=1e-4)
        np.testing.assert_allclose(features, one[2], atol=1e-4)
        assert log_tie == pytest.approx(one[3], abs=1e-6)
        save_reward_model(tmp_path / "one", trainer.model, source=str(tmp_path / "model"), rank=0)
        mine = dict(load_reward_model(str(tmp_path / "one")).named_parameters())
        for name, theirs in load_reward_model(str(tmp_path / likelihood)).named_parameters():
            torch.testing.assert_close(theirs, mine[name], atol=1e-4, rtol=1e-4)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
