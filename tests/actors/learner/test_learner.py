import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, ReferenceConfig, SftConfig
from actors.errors import InvalidInputError, TrainingDivergedError
from actors.learner.learner import ADAM_BETAS, Learner
from actors.learner.settings import LearnerSettings
from actors.learner.train_loop import train_loop
from actors.messages import (
    Evaluate,
    LearnerStart,
    OnPolicyStep,
    Publish,
    SaveCheckpoint,
    SftStep,
    Stop,
)
from actors.weights.store import WeightStore
from alignment.mdp.trajectories import Trajectories, concatenate, pack
from cluster.learner.task_queue import share
from tests.fakes.process_group import join_process_group
from tests.fakes.tiny_job import save_tiny_tokenizer

VOCABULARY = 96
# A single rank needs no process group, of which torch's checkpoints warn.
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
CPU = torch.device("cpu")


class ListPort:
    """The driver's side, from a list of whole tasks; every rank gets some of the groups."""

    def __init__(self, tasks, *, attempt=0, checkpoint=None):
        self.tasks, self.start_with = tasks, LearnerStart(attempt, checkpoint)
        self.metrics, self.publications = [], []

    def start(self, rank, world_size):
        return self.start_with

    def next_task(self, rank, world_size, index):
        if index == len(self.tasks):
            return Stop()
        return share(self.tasks[index], rank, world_size)

    def published(self, published):
        self.publications.append(published)

    def finished(self, index, metrics):
        if metrics:
            self.metrics.append(dict(metrics))


def counted(step, *, groups=5, group_size=1):
    rng = np.random.default_rng(step)
    trajectories = concatenate(
        [
            pack(
                prompt,
                rng.integers(3, VOCABULARY, rng.integers(1, 9)).tolist(),
                prompt_id=index,
            )
            for index in range(groups)
            for prompt in [rng.integers(3, VOCABULARY, rng.integers(1, 7)).tolist()]
            for _ in range(group_size)
        ]
    )
    logprobs = rng.normal(-math.log(VOCABULARY), 0.2, len(trajectories.token_ids))
    behavior = np.where(trajectories.action_mask, logprobs, 0).astype(np.float32)
    trajectories = Trajectories(trajectories.token_ids, behavior, *tuple(trajectories)[2:])
    counts = {
        "num_sequences": len(trajectories),
        "num_action_tokens": int(trajectories.action_mask.sum()),
    }
    return trajectories, counts, rng


def sft(step, *, groups=5, **more):
    trajectories, counts, _ = counted(step, groups=groups)
    return SftStep(step, 1e-3, trajectories, **counts, **more)


def on_policy(step, **more):
    trajectories, counts, rng = counted(step, groups=3, group_size=3)
    logits, rewards = (rng.normal(size=9).astype(np.float32) for _ in range(2))
    return OnPolicyStep(
        step, 1e-3, trajectories, logits, rewards, **{"publish": False, **counts, **more}
    )


def evaluation(step):
    trajectories, counts, _ = counted(step)
    return Evaluate(step, trajectories, counts["num_action_tokens"])


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request):
    return request.param


@pytest.fixture
def model_folder(tmp_path):
    return make_model(tmp_path, tied=True)


def make_model(tmp_path, *, tied):
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        initializer_range=0.2,
    )
    folder = tmp_path / f"model-{tied}"
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tiny_tokenizer(folder)
    return folder


def settings_for(model_folder, *, estimator="k1_reward", coefficient=0.1, max_tokens=64, **more):
    return LearnerSettings(
        model=str(model_folder),
        weights=model_folder.parent / "weights",
        objective=ObjectiveConfig(
            reference=ReferenceConfig(coefficient=coefficient, estimator=estimator)
        ),
        config=LearnerConfig(autocast="float32", max_tokens_per_microbatch=max_tokens),
        **{
            "sft": SftConfig(),
            "temperature": 1.0,
            "published_dtype": "float32",
            "context_tokens": 12,
            **more,
        },
    )


def run(port, settings):
    train_loop(port, settings, device=CPU, rank=0, world_size=1)
    return port


def losses(port):
    return [m["learner/loss"] for m in port.metrics]


def plain_nll(model, trajectories, row):
    """By the model as transformers runs it, one sequence alone, full logits."""
    prompt, response = trajectories.prompt(row), trajectories.response(row)
    tokens = torch.tensor([[*prompt, *response]]).long()
    logprobs = model(tokens).logits[0].log_softmax(dim=-1)
    states = torch.arange(len(prompt) - 1, tokens.shape[1] - 1)
    return -logprobs[states, tokens[0, len(prompt) :]]


def weights_of(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return dict(model.named_parameters())


def assert_same_weights(first, second, **tolerance):
    first, second = weights_of(first), weights_of(second)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], **tolerance)


def test_sft_follows_the_curve_of_a_plain_loop(tmp_path, tied):
    folder = make_model(tmp_path, tied=tied)
    tasks = [sft(step) for step in range(10)]
    port = run(ListPort(tasks), settings_for(folder, max_tokens=40))
    model = LlamaForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, betas=ADAM_BETAS, weight_decay=0.0)
    expected = []
    for t in tasks:
        nll = torch.cat([plain_nll(model, t.trajectories, i) for i in range(t.num_sequences)])
        expected.append(float(nll.mean().detach()))
        nll.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert losses(port) == pytest.approx(expected, abs=1e-5)


def test_sft_with_td_weight_is_iq_learn_on_the_models_own_logits(model_folder):
    config = SftConfig(td_weight=0.4, reduction="sum_per_sequence")
    t = sft(0)
    settings = settings_for(model_folder, max_tokens=40, temperature=0.7, sft=config)
    port = run(ListPort([t]), settings)
    model, loss = LlamaForCausalLM.from_pretrained(model_folder), 0.0
    for row in range(5):
        prompt, response = t.trajectories.prompt(row), t.trajectories.response(row)
        tokens = torch.tensor([[*prompt, *response]]).long()
        soft_q = model(tokens).logits[0, len(prompt) - 1 : -1] / 0.7
        values = soft_q.logsumexp(dim=-1)
        chosen = soft_q[torch.arange(len(response)), tokens[0, len(prompt) :]]
        rewards = chosen - torch.cat([values[1:], values.new_zeros(1)])
        loss = loss + ((values - chosen).sum() + 0.1 * rewards.square().sum()) / 5
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert port.metrics[0]["learner/loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert port.metrics[0]["learner/grad_norm"] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("estimator", ["k1_reward", "k2_loss", "k3_loss"])
def test_the_size_of_microbatches_changes_nothing(model_folder, estimator):
    tasks = [on_policy(step) for step in range(3)]
    runs = [
        run(ListPort(tasks), settings_for(model_folder, estimator=estimator, max_tokens=n))
        for n in (36, 4096)
    ]
    for small, large in zip(runs[0].metrics, runs[1].metrics, strict=True):
        timed = {"learner/step_s", "learner/tokens_per_s"}
        assert {k: v for k, v in small.items() if k not in timed} == pytest.approx(
            {k: v for k, v in large.items() if k not in timed}, abs=1e-5, rel=1e-5
        )
    assert runs[0].metrics[0]["learner/reference_kl"] == 0.0  # the policy has not moved yet
    assert abs(runs[0].metrics[2]["learner/reference_kl"]) > 1e-4


def formula(estimator, t, model, reference):
    """Loss and rewards of three groups of three, one sequence at a time.

    Reverse KL: the reward is half of h = logit + log mu - log pi, the reward source's, and -0.3 k1
    where that is a reward. With leave-one-out advantages A and truncated token weights w,
    loss = -1/9 sum A w log pi, plus 0.3/9 times k2 or k3.
    """
    terms, rewards, penalty = [], [], 0.0
    for row in range(9):
        logprobs = -plain_nll(model, t.trajectories, row)
        log_rho = -plain_nll(reference, t.trajectories, row).detach() - logprobs
        start = t.trajectories.starts[row] + t.trajectories.prompt_lengths[row]
        behavior = t.trajectories.behavior_logprobs[start : start + len(logprobs)]
        ratio = logprobs.detach() - torch.tensor(behavior)
        logit = t.discriminator_logits[row] + float((-ratio.sum()).clamp(-5.0, 5.0))
        rewards.append(0.5 * min(max(logit, -10.0), 10.0) + t.rewards[row])
        match estimator:
            case "k1_reward":
                rewards[-1] += 0.3 * float(log_rho.sum().detach())
            case "k2_loss":
                penalty = penalty + 0.3 * (log_rho**2 / 2).sum() / 9
            case "k3_loss":
                penalty = penalty + 0.3 * (log_rho.exp() - 1 - log_rho).sum() / 9
        terms.append((ratio.exp().clamp(max=2.0) * logprobs).sum())
    r = np.asarray(rewards).reshape(3, 3)
    advantages = (r - (r.sum(axis=1, keepdims=True) - r) / 2).ravel()
    products = [float(a) * term for a, term in zip(advantages, terms, strict=True)]
    return penalty - sum(products) / 9, rewards


@pytest.mark.parametrize("estimator", ["k1_reward", "k2_loss", "k3_loss"])
def test_an_on_policy_step_is_that_of_the_formula(tmp_path, model_folder, estimator):
    objective = ObjectiveConfig(
        divergence="reverse_kl",
        divergence_weight=0.5,
        reference=ReferenceConfig(coefficient=0.3, estimator=estimator),
    )
    settings = settings_for(model_folder)._replace(objective=objective)
    # The reference is the policy before the first on-policy step, so look at the second.
    t, checkpoint = on_policy(1), tmp_path / "checkpoint"
    tasks = [on_policy(0), SaveCheckpoint(1, str(checkpoint)), t]
    port = run(ListPort(tasks), settings)
    model = LlamaForCausalLM.from_pretrained(checkpoint / "policy")
    loss, rewards = formula(estimator, t, model, LlamaForCausalLM.from_pretrained(model_folder))
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    metrics = port.metrics[1]
    assert metrics["learner/loss"] == pytest.approx(float(loss.detach()), rel=1e-4, abs=1e-5)
    assert metrics["learner/grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    assert metrics["learner/reward_mean"] == pytest.approx(np.mean(rewards), abs=1e-4)
    assert metrics["learner/reward_std"] == pytest.approx(np.std(rewards), abs=1e-4)


def states_of(folder, trajectories):
    """[response token, hidden] by the model as transformers runs it, one sequence alone."""
    model, states = LlamaForCausalLM.from_pretrained(folder), []
    for row in range(len(trajectories)):
        prompt, response = trajectories.prompt(row), trajectories.response(row)
        tokens = torch.tensor([[*prompt, *response]]).long()
        with torch.no_grad():
            hidden = model.model(tokens).last_hidden_state[0]
        states.append(hidden[len(prompt) - 1 : -1])
    return torch.cat(states).numpy()


def test_a_step_at_level_state_descends_the_divergence_from_the_teacher(tmp_path, model_folder):
    (tmp_path / "teacher").mkdir()
    torch.manual_seed(2)
    teacher = LlamaConfig.from_pretrained(model_folder, hidden_size=16, tie_word_embeddings=False)
    LlamaForCausalLM(teacher).save_pretrained(tmp_path / "teacher")
    save_tiny_tokenizer(tmp_path / "teacher")
    objective = ObjectiveConfig(
        divergence="skew_forward_kl",
        divergence_parameters={"skew": 0.1},
        divergence_weight=0.5,
        level="state",
        reference=ReferenceConfig(coefficient=0.0),
    )
    settings = settings_for(model_folder, teacher=str(tmp_path / "teacher"), max_tokens=40)
    t = on_policy(0)
    states = states_of(tmp_path / "teacher", t.trajectories)
    t = replace(t, teacher_states=states, rewards=np.zeros(9, np.float32))
    port = run(ListPort([t]), settings._replace(objective=objective))

    policy = LlamaForCausalLM.from_pretrained(model_folder)
    head = LlamaForCausalLM.from_pretrained(tmp_path / "teacher").lm_head.weight.detach()
    q = torch.cat([full_logprobs(policy, t.trajectories, row) for row in range(9)])
    p = (torch.from_numpy(states) @ head.T).log_softmax(-1)
    mixture = (0.1 * p.exp() + 0.9 * q.exp()).log()
    divergences = (p.exp() * (p - mixture)).sum(-1)
    loss = 0.5 * divergences.sum() / 9
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 1e9)
    metrics = port.metrics[0]
    assert metrics["learner/loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert metrics["learner/state_divergence"] == pytest.approx(
        float(divergences.mean().detach()), rel=1e-4
    )
    assert metrics["learner/grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def full_logprobs(model, trajectories, row, temperature=1.0):
    prompt, response = trajectories.prompt(row), trajectories.response(row)
    tokens = torch.tensor([[*prompt, *response]]).long()
    return (model(tokens).logits[0, len(prompt) - 1 : -1] / temperature).log_softmax(-1)


def test_rejected_responses_leave_the_mean(tmp_path, model_folder):
    """A step in which some are rejected equals one of the others alone, whatever N was."""
    objective = ObjectiveConfig(
        max_mean_log_ratio=1.0, reference=ReferenceConfig(coefficient=0.0), divergence_weight=0.0
    )
    settings = settings_for(model_folder)._replace(objective=objective)
    t = on_policy(0)
    ratios = []
    model = LlamaForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        for row in range(9):
            logprobs = -plain_nll(model, t.trajectories, row)
            start = t.trajectories.starts[row] + t.trajectories.prompt_lengths[row]
            behavior = t.trajectories.behavior_logprobs[start : start + len(logprobs)]
            ratios.append(float((logprobs - torch.tensor(behavior)).mean().abs()))
    limit = sorted(ratios)[5] + 1e-6  # six of nine are closer
    strict = objective.model_copy(update={"max_mean_log_ratio": limit})
    metrics = run(ListPort([t]), settings._replace(objective=strict)).metrics[0]
    assert metrics["learner/rejected_fraction"] == pytest.approx(3 / 9)
    # by hand: token weights and leave-one-out advantages as for all nine, the mean over six
    r = t.rewards.reshape(3, 3)
    advantages = (r - (r.sum(axis=1, keepdims=True) - r) / 2).ravel()
    loss = 0.0
    for row in np.flatnonzero(np.asarray(ratios) < limit):
        logprobs = -plain_nll(model, t.trajectories, int(row))
        start = t.trajectories.starts[row] + t.trajectories.prompt_lengths[row]
        behavior = t.trajectories.behavior_logprobs[start : start + len(logprobs)]
        weights = (logprobs.detach() - torch.tensor(behavior)).exp().clamp(max=2.0)
        loss = loss - float(advantages[row]) * (weights * logprobs).sum() / 6
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
    assert metrics["learner/grad_norm"] == pytest.approx(float(norm), rel=1e-4)


def state_of(learner):
    moments = {
        f"{index}.{key}": value.clone()
        for index, of_parameter in learner.optimizer.state_dict()["state"].items()
        for key, value in of_parameter.items()
    }
    return weights_now(learner) | moments


@pytest.mark.parametrize(
    ("limit", "changes", "reason"),
    [
        (None, {"rewards": 3e38}, "learner/skipped_not_finite"),
        (None, {"discriminator_logits": np.nan}, "learner/skipped_not_finite"),
        (1e-9, {}, "learner/skipped_rejected"),
    ],
)
def test_a_step_that_cannot_be_learned_from_changes_neither_weights_nor_moments(
    model_folder, limit, changes, reason
):
    settings = settings_for(model_folder)
    if limit:
        objective = settings.objective.model_copy(update={"max_mean_log_ratio": limit})
        settings = settings._replace(objective=objective)
    learner = Learner(settings, device=CPU, rank=0, world_size=1)
    learner.perform(sft(0, publish=False))
    before = state_of(learner)
    task = on_policy(1)
    full = {name: np.full(9, value, np.float32) for name, value in changes.items()}
    metrics = learner.perform(replace(task, **full))
    assert {name for name in metrics if "skipped" in name} == {reason}
    assert all(map(math.isfinite, metrics.values()))
    after = state_of(learner)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert before.keys() == after.keys()
    assert learner.step == 2
    assert not [name for name in learner.perform(sft(2, publish=False)) if "skipped" in name]


def no_signal(step, **more):
    zeros = np.zeros(9, np.float32)
    return replace(on_policy(step), discriminator_logits=zeros, rewards=zeros, **more)


def test_stage_two_begins_without_the_momentum_of_stage_one(model_folder):
    """A gradient of exactly 0 moves no weight; AdamW's old moments would, for tens of steps."""
    settings = settings_for(model_folder)._replace(
        objective=ObjectiveConfig(divergence_weight=0.0, reference=ReferenceConfig(coefficient=0.0))
    )
    learner = Learner(settings, device=CPU, rank=0, world_size=1)
    for step in range(3):
        learner.perform(sft(step))
    before = weights_now(learner)
    metrics = learner.perform(no_signal(3, begins_stage=True))
    assert metrics["learner/grad_norm"] == 0.0
    assert all(torch.equal(before[name], now) for name, now in weights_now(learner).items())
    learner.perform(on_policy(4))  # moments of stage 2 stay
    before = weights_now(learner)
    learner.perform(no_signal(5))
    assert not all(torch.equal(before[name], now) for name, now in weights_now(learner).items())


def weights_now(learner):
    return {name: p.detach().clone() for name, p in learner.policy.named_parameters()}


def test_evaluation_measures_and_changes_nothing(model_folder):
    t = evaluation(0)
    port = run(ListPort([t, evaluation(0)]), settings_for(model_folder, max_tokens=20))
    with torch.no_grad():
        model = LlamaForCausalLM.from_pretrained(model_folder)
        nll = torch.cat([plain_nll(model, t.trajectories, row) for row in range(5)])
    assert port.metrics[0]["eval/held_out_nll"] == pytest.approx(float(nll.mean()), abs=1e-5)
    assert port.metrics[0] == port.metrics[1]


def test_published_weights_are_the_policy_and_the_canary_proves_it(tmp_path, tied):
    folder = make_model(tmp_path, tied=tied)
    checkpoint = tmp_path / "checkpoint"
    tasks = [
        Publish(),
        sft(0, publish=True),
        SaveCheckpoint(1, str(checkpoint)),
    ]
    port = run(ListPort(tasks, attempt=3), settings_for(folder, temperature=0.7))
    assert [p.version for p in port.publications] == [(3, 0), (3, 1)]
    for published, source in zip(port.publications, (folder, checkpoint / "policy"), strict=True):
        fetched = WeightStore(folder.parent / "weights").fetch(published)
        expected = weights_of(source)
        assert fetched.keys() == expected.keys()
        assert ("lm_head.weight" in fetched) is not tied
        assert all(torch.equal(fetched[name], expected[name]) for name in expected)
        model = AutoModelForCausalLM.from_pretrained(source)
        canary = published.canary
        assert max(map(len, canary.texts)) <= 11  # an engine with a context of 12 scores no more
        for text, measured in zip(canary.texts, canary.logprobs, strict=True):
            tokens = torch.tensor([text])
            with torch.no_grad():
                logprobs = model(tokens).logits[0, :-1].log_softmax(dim=-1)
            expected_logprobs = logprobs.gather(1, tokens[0, 1:, None])[:, 0].tolist()
            assert measured == pytest.approx(expected_logprobs, abs=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint / "policy")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(folder).chat_template


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_neither_published_nor_saved(tmp_path, model_folder, value):
    settings = settings_for(model_folder)
    learner = Learner(settings, device=CPU, rank=0, world_size=1)
    with torch.no_grad():
        learner.policy.model.model.norm.weight[3] = value
    for act in (lambda: learner.publish(0), lambda: learner.save(tmp_path / "checkpoint")):
        with pytest.raises(TrainingDivergedError, match=r"1 weights .* first in model\.norm"):
            act()
    assert not list(settings.weights.glob("*.safetensors"))
    assert not (tmp_path / "checkpoint").exists()


def test_an_exported_policy_is_sampled_as_it_was_trained(tmp_path, model_folder):
    """Also if the model's own generation_config.json is one that transformers does not save."""
    ids = {"bos_token_id": 1, "eos_token_id": [2, 5]}
    own = {**ids, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.2}
    (model_folder / "generation_config.json").write_text(json.dumps(own))
    folder = tmp_path / "checkpoint"
    run(ListPort([SaveCheckpoint(0, str(folder))]), settings_for(model_folder, temperature=0.7))
    assert (folder / "learner.json").exists()
    policy = AutoModelForCausalLM.from_pretrained(folder / "policy")
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0}
    written = policy.generation_config.to_diff_dict()
    del written["transformers_version"]
    assert written == ids | sampling


def test_sft_trains_the_policy_at_its_temperature(model_folder):
    task = sft(0)
    port = run(ListPort([task]), settings_for(model_folder, temperature=0.7))
    model = LlamaForCausalLM.from_pretrained(model_folder)
    with torch.no_grad():
        cold = [full_logprobs(model, task.trajectories, row, 0.7) for row in range(5)]
    tokens = task.trajectories.token_ids[task.trajectories.action_mask]
    nll = -torch.cat(cold)[torch.arange(len(tokens)), torch.tensor(tokens).long()].mean()
    assert losses(port) == pytest.approx([float(nll)], abs=1e-5)


def test_the_texts_of_the_canary_are_those_of_the_first_task_from_then_on(model_folder):
    """A worker compares two versions on the same texts."""
    tasks = [Publish(), sft(0, publish=True), sft(1, publish=True)]
    port = run(ListPort(tasks), settings_for(model_folder)._replace(context_tokens=6))
    before, first, second = (each.canary for each in port.publications)
    assert first.texts == second.texts != before.texts
    assert first.logprobs != second.logprobs
    trajectories = tasks[1].trajectories
    end = trajectories.starts[0] + trajectories.lengths[0]
    assert first.texts[0] == tuple(trajectories.token_ids[end - 5 : end].tolist())


def test_published_precision_is_the_engines(model_folder):
    settings = settings_for(model_folder, published_dtype="bfloat16")
    port = run(ListPort([Publish()]), settings)
    fetched = WeightStore(settings.weights).fetch(port.publications[0])
    for name, tensor in weights_of(model_folder).items():
        assert torch.equal(fetched[name], tensor.bfloat16())


def test_a_checkpoint_without_its_last_file_is_refused(tmp_path, model_folder):
    folder = tmp_path / "checkpoint"
    run(ListPort([sft(0), SaveCheckpoint(1, str(folder))]), settings_for(model_folder))
    assert json.loads((folder / "learner.json").read_text()) == {"step": 1, "has_reference": False}
    (folder / "learner.json").unlink()
    learner = Learner(settings_for(model_folder), device=CPU, rank=0, world_size=1)
    with pytest.raises(InvalidInputError, match="holds no complete checkpoint"):
        learner.restore(folder)


def test_a_task_for_another_step_is_refused(model_folder):
    with pytest.raises(RuntimeError, match=r"SftStep is for step 4, but .* step 0"):
        run(ListPort([sft(4)]), settings_for(model_folder))


def test_weights_are_published_again_as_they_are(model_folder):
    port = run(ListPort([Publish(), sft(0), Publish(), Publish()]), settings_for(model_folder))
    assert [published.version.step for published in port.publications] == [0, 1, 1]


MIXED = [
    sft(0, publish=True),  # scoring the canary leaves some weights gathered
    on_policy(1, begins_stage=True),
    on_policy(2),
    on_policy(3),
    sft(4, groups=1),  # with two ranks, one has nothing to do
    on_policy(5),
]


def with_two_ranks(runs, folder):
    """Train in two processes, one run after the other, and return rank 0's metrics of each."""
    folder.mkdir()
    torch.save(runs, folder / "runs.pt")
    root = Path(__file__).parents[3]
    ranks = [
        subprocess.Popen(
            [sys.executable, __file__, str(folder), str(rank)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=240)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(errors)
    return torch.load(folder / "metrics.pt")


def main(folder, rank):
    """Be one of the two processes."""
    join_process_group(rank, 2, folder / "meeting")
    metrics = []
    for settings, tasks, checkpoint in torch.load(folder / "runs.pt", weights_only=False):
        port = ListPort(tasks, checkpoint=checkpoint)
        train_loop(port, settings, device=CPU, rank=rank, world_size=2)
        metrics.append(port.metrics)
    torch.distributed.destroy_process_group()
    if rank == 0:
        torch.save(metrics, folder / "metrics.pt")


def comparable(metrics):
    timed = {"learner/step_s", "learner/tokens_per_s"}
    return [{k: v for k, v in m.items() if k not in timed} for m in metrics]


def mixed(prefix, *steps, first=0):
    """MIXED from this step on, with a checkpoint after some steps."""
    tasks = []
    for t in MIXED[first:]:
        tasks.append(t)
        if t.step in steps:
            tasks.append(SaveCheckpoint(t.step + 1, f"{prefix}-{t.step}"))
    return tasks


@pytest.mark.processes
def test_two_ranks_and_restarts_equal_one_uninterrupted_rank(tmp_path):
    all_settings = {
        name: settings_for(make_model(tmp_path, tied=name == "tied"), max_tokens=40)
        for name in ("tied", "untied")
    }
    runs, ones = [], {}
    for name, settings in all_settings.items():
        ones[name] = run(ListPort(mixed(f"{tmp_path}/{name}-one", 2, 5)), settings)
        runs.append((settings, mixed(f"{tmp_path}/{name}-two", 2, 5), None))
        checkpoint = str(tmp_path / f"{name}-one-2")
        runs.append((settings, mixed(f"{tmp_path}/{name}-more", 5, first=3), checkpoint))
    twos = with_two_ranks(runs, tmp_path / "processes")

    for (name, settings), from_start, resumed in zip(
        all_settings.items(), twos[::2], twos[1::2], strict=True
    ):
        one = comparable(ones[name].metrics)
        for mine, theirs in zip(one, comparable(from_start), strict=True):
            assert theirs == pytest.approx(mine, abs=1e-5, rel=1e-5)
        for mine, theirs in zip(one[3:], comparable(resumed), strict=True):
            assert theirs == pytest.approx(mine, abs=1e-5, rel=1e-5)
        again = ListPort(
            mixed(f"{tmp_path}/{name}-again", 5, first=3),
            checkpoint=str(tmp_path / f"{name}-one-2"),
        )
        assert comparable(run(again, settings).metrics) == one[3:]  # bit for bit
        fewer = ListPort(
            mixed(f"{tmp_path}/{name}-fewer", 5, first=3),
            checkpoint=str(tmp_path / f"{name}-two-2"),
        )
        run(fewer, settings)
        final = tmp_path / f"{name}-one-5" / "policy"
        assert_same_weights(final, tmp_path / f"{name}-again-5" / "policy", atol=0.0, rtol=0.0)
        for other in ("two", "more", "fewer"):
            policy = tmp_path / f"{name}-{other}-5" / "policy"
            assert_same_weights(final, policy, atol=1e-5, rtol=1e-5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
