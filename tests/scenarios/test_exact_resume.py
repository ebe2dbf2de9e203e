"""A stopped and resumed run equals one that was not stopped, with fakes and with real workers."""

import asyncio
import json
import random
import resource
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from actors.discriminator.worker import DiscriminatorWorker
from actors.errors import DamagedCheckpointError
from actors.learner.learner import Learner
from actors.learner.settings import LearnerSettings
from actors.learner.train_loop import train_loop
from actors.messages import RolloutResult
from actors.weights.checksums import write_checksums
from actors.weights.store import WeightStore
from alignment.divergences.lookup import divergence
from alignment.mdp.trajectories import concatenate, pack
from cluster.driver.evaluation import EVALUATION_SEED
from tests.fakes.discriminator_worker import LogisticDiscriminatorWorker
from tests.fakes.rollout_worker import FakeRolloutWorker
from tests.fakes.tiny_job import save_tiny_tokenizer
from tests.fakes.tiny_llama import save_tiny_policy
from tests.fakes.whole_run import World, make_config

CPU = torch.device("cpu")
MAX_RESPONSE_TOKENS = 6
CLOCKS = ("time", "rollout/tokens_per_s", "learner/step_s", "learner/tokens_per_s")


class ThreadedLearner:
    """The real learner in a thread, which pulls its tasks from the task queue."""

    def __init__(self, task_queue, published, settings):
        self._task_queue, self._published, self._settings = task_queue, published, settings
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run)
        self.error = None

    def _run(self):
        try:
            train_loop(self, self._settings, device=CPU, rank=0, world_size=1)
        except Exception as error:
            self.error = error
            self._ask(self._task_queue.fail(repr(error)))

    def _ask(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=60)

    # ---- called by the host

    def start(self, rank=None, world_size=None):
        if rank is None:
            return self._thread.start()
        begun = self._ask(self._task_queue.start(rank, world_size))
        self._attempt = begun.attempt
        return begun

    async def ended(self):
        await asyncio.to_thread(self._thread.join)
        assert self.error is None

    # ---- called by the rank

    def next_task(self, rank, world_size, index):
        return self._ask(self._task_queue.next_task(self._attempt, rank, world_size, index))

    def published(self, published):
        async def note():
            self._published(published)

        self._ask(note())

    def finished(self, index, metrics):
        self._ask(self._task_queue.finished(self._attempt, index, metrics))


class TorchSampler:
    """Samples with torch from the published weights, with the request's seed."""

    def __init__(self, model, weights):
        self._model = LlamaForCausalLM.from_pretrained(model).eval()
        self._store = WeightStore(weights)

    async def sync_weights(self, published):
        state = self._store.fetch(published)
        left_out = self._model.load_state_dict(state, strict=False).missing_keys
        assert left_out == ["lm_head.weight"]  # tied to the embeddings
        self._version = published.version

    @torch.no_grad()
    def rollout(self, request):
        rng = torch.Generator().manual_seed(request.seed)
        prompts = np.repeat(np.stack(request.prompts), request.group_size, axis=0)
        ids = torch.from_numpy(prompts).long()
        logprobs = []
        for _ in range(MAX_RESPONSE_TOKENS):
            all_logprobs = self._model(ids).logits[:, -1].log_softmax(-1)
            tokens = torch.multinomial(all_logprobs.exp(), 1, generator=rng)
            logprobs.append(all_logprobs.gather(1, tokens))
            ids = torch.cat([ids, tokens], dim=1)
        responses, scores = ids[:, prompts.shape[1] :], torch.cat(logprobs, dim=1)
        batch = []
        for row, response in enumerate(responses.tolist()):
            length = response.index(2) + 1 if 2 in response else MAX_RESPONSE_TOKENS
            one = pack(
                prompts[row].tolist(),
                response[:length],
                prompt_id=request.prompt_ids[row // request.group_size],
                behavior_logprobs=scores[row, :length].tolist(),
                policy_version=self._version,
            )
            batch.append(one)
        return RolloutResult(concatenate(batch), 0.001)


def real_config(model):
    return make_config(
        model={"name": model},
        sft={"steps": 2, "prompts_per_step": 4, "learning_rate": 0.01},
        objective={
            "steps": 5,
            "divergence_weight": 1.0,
            "learning_rate": 0.003,
            "reference": {"coefficient": 0.1},
        },
        discriminator={"warm_up_steps": 2, "token_dropout": 0.2, "learning_rate": 0.003},
        rollout={"dtype": "float32"},
        learner={"autocast": "float32", "checkpoint_every_steps": 100},
    )


def real_settings(model, run_dir):
    config = real_config(model)
    return LearnerSettings(
        model=model,
        weights=run_dir / "weights",
        sft=config.sft,
        objective=config.objective,
        temperature=config.rollout.temperature,
        published_dtype="float32",
        config=config.learner,
        context_tokens=16,
    )


def real_world(model, run_dir):
    """A world with the real learner and discriminator, and a sampler of real weights."""
    config = real_config(model)

    def worker_group(task_queue, published, world_size):
        assert world_size == 1
        return ThreadedLearner(task_queue, published, real_settings(model, run_dir))

    def make_discriminator():
        return DiscriminatorWorker(
            model,
            config.discriminator,
            level="trajectory",
            divergence=divergence(config.objective.divergence),
            max_tokens_per_microbatch=4096,
            autocast="float32",
            seed=config.seed,
        )

    return World(
        config,
        run_dir,
        make_rollout_worker=lambda: TorchSampler(model, run_dir / "weights"),
        make_discriminator=make_discriminator,
        worker_group=worker_group,
    )


async def run_real(model, run_dir, stop_at=None):
    """Start or resume the run; return whether it is finished."""
    world = real_world(model, run_dir)
    if stop_at == "at once":
        world.driver.request_stop()
    async with world:
        world.at(stop_at, do=world.driver.request_stop)
        is_finished = await world.driver.run()
    await world.worker_group.ended()
    return is_finished


def figures(run_dir):
    """Return the metrics that are not times."""
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in row.items() if not name.startswith(CLOCKS)} for row in rows
    ]


def weights_of(run_dir):
    """Return every tensor of the newest checkpoint, by file and name."""
    manifest = json.loads((run_dir / "manifest.json").read_text())
    folder = run_dir / "checkpoints" / manifest["checkpoint"]
    files = sorted(folder.rglob("*.safetensors"))
    assert len(files) == 3  # the policy, the discriminator and its optimizer
    return {(p.name, name): t for p in files for name, t in load_file(p).items()}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_tiny_tokenizer(folder)
    return save_tiny_policy(folder)


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """A run that was not interrupted."""
    run_dir = tmp_path_factory.mktemp("whole")
    assert asyncio.run(run_real(model, run_dir))
    return run_dir


@pytest.mark.processes
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
async def test_a_run_of_real_workers_resumes_bit_for_bit(model, whole, tmp_path):
    stops = sorted(random.Random(7).sample(range(1, 9), 3))
    for stop_at in (stops[0], "at once", *stops[1:]):
        assert not await run_real(model, tmp_path, stop_at)
    assert await run_real(model, tmp_path)
    assert figures(tmp_path) == figures(whole)
    assert [row["step"] for row in figures(whole)] == list(range(10))
    assert {"learner/loss", "learner/reference_kl", "discriminator/loss"} <= {*figures(whole)[-1]}
    expected, found = weights_of(whole), weights_of(tmp_path)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


class NotedRolloutWorker(FakeRolloutWorker):
    """Records each request, and the version of the weights that served it."""

    def __init__(self, notes):
        super().__init__()
        self._notes = notes

    async def rollout(self, request):
        result = await super().rollout(request)
        is_draw = request.seed != EVALUATION_SEED
        if is_draw:
            steps = result.trajectories.policy_versions[:, 1].tolist()
            self._notes.add((request.prompt_ids, request.seed, *set(steps)))
        return result


async def run_fakes(run_dir, notes, stop_at=None):
    config = make_config(
        objective={"steps": 8, "divergence_weight": 1.0}, discriminator={"warm_up_steps": 3}
    )
    async with World(
        config,
        run_dir,
        make_rollout_worker=lambda: NotedRolloutWorker(notes),
        make_discriminator=lambda: LogisticDiscriminatorWorker(16),
    ) as world:
        world.at(stop_at, do=world.driver.request_stop)
        if stop_at == "at once":
            world.driver.request_stop()
        assert await world.driver.run() is (stop_at is None)
        return world.worker_group.history


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Return the history and the requests of a run that was not stopped."""
    notes = set()
    history = asyncio.run(run_fakes(tmp_path_factory.mktemp("undisturbed"), notes))
    return history, notes


@given(stops=st.lists(st.integers(1, 13), min_size=3, max_size=3, unique=True))
@settings(deadline=None, max_examples=3)
def test_prompts_seeds_and_versions_are_those_of_a_run_that_was_not_stopped(undisturbed, stops):
    # 14 steps of 4 draws cross the end of an epoch of 12 rows four times.
    notes = set()
    with tempfile.TemporaryDirectory() as run_dir:
        first, *others = sorted(stops)
        for stop_at in (first, "at once", *others):
            asyncio.run(run_fakes(Path(run_dir), notes, stop_at))
        history = asyncio.run(run_fakes(Path(run_dir), notes))
    assert (history, notes) == undisturbed
    assert len(notes) == 11


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_that_does_not_fit_the_disk_writes_its_reason(model, tmp_path):
    learner = Learner(real_settings(model, tmp_path), device=CPU, rank=0, world_size=1)
    with largest_file(2048):
        learner.save(tmp_path / "small")
    assert not (tmp_path / "small" / "learner.json").exists()
    assert "File too large" in (tmp_path / "small" / "failed.txt").read_text()
    assert sorted(path.name for path in (tmp_path / "small").iterdir()) == ["failed.txt"]
    learner.save(tmp_path / "large")  # the learner is still usable
    learner.restore(tmp_path / "large")


@contextmanager
def largest_file(num_bytes):
    """Limit the size of a file: beyond it the operating system fails a write as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_learner_refuses_a_damaged_checkpoint(model, tmp_path):
    learner = Learner(real_settings(model, tmp_path), device=CPU, rank=0, world_size=1)
    learner.save(tmp_path)
    write_checksums(tmp_path)
    learner.restore(tmp_path)
    (shard,) = (tmp_path / "learner").glob("*.distcp")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=f"{shard} is damaged"):
        learner.restore(tmp_path)
