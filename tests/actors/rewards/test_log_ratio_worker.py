import json
import math

import numpy as np
import pytest
from transformers import AutoModelForCausalLM

from actors.errors import InvalidInputError, RewardError
from actors.rewards.log_ratio_worker import LogRatioWorker
from actors.rewards.sources import LOG_RATIO, is_log_ratio, read_log_ratio
from alignment.mdp.trajectories import EMPTY, concatenate, pack
from alignment.models.policy import load_policy
from alignment.rewards.log_ratio import log_ratios
from tests.fakes.tiny_job import save_tiny_model


@pytest.fixture
def place(tmp_path):
    for seed, name in enumerate(("reward/numerator", "init")):
        save_tiny_model(tmp_path / name, seed)
    write(tmp_path, numerator="numerator", denominator=str(tmp_path / "init"))
    return tmp_path


def write(place, **values):
    (place / "reward" / LOG_RATIO).write_text(json.dumps(values))


def trajectories():
    rows = ([4, 5], [6, 1], 7), ([4, 5], [7, 7, 7, 1], 7), ([6], [4], 9)
    return concatenate([pack(prompt, response, prompt_id=row) for prompt, response, row in rows])


def test_a_reward_is_the_log_ratio_at_the_temperature_of_the_file(place):
    write(place, numerator="numerator", denominator=str(place / "init"), temperature=0.25)
    worker = LogRatioWorker(str(place / "reward"), str(place / "init"))
    rewards = worker.score(trajectories(), ["unused"] * 3)
    policies = [load_policy(place / name) for name in ("reward/numerator", "init")]
    expected = log_ratios(*policies, trajectories(), temperature=0.25, max_tokens=64)
    np.testing.assert_allclose(rewards, expected.numpy(), atol=1e-5)
    assert rewards.dtype == np.float32
    assert len(worker.score(EMPTY, [])) == 0


def test_only_a_folder_with_the_file_is_a_log_ratio(place):
    assert is_log_ratio(str(place / "reward"))
    assert not is_log_ratio(str(place / "init"))
    assert not is_log_ratio("some-owner/some-model")


def test_a_name_that_is_no_folder_next_to_the_file_is_a_hub_name(place):
    write(place, numerator="numerator", denominator="owner/model")
    found = read_log_ratio(str(place / "reward"))
    assert found.numerator == str(place / "reward" / "numerator")
    assert (found.denominator, found.temperature) == ("owner/model", 1.0)


def test_policies_with_other_tokens_are_refused(place):
    save_tiny_model(place / "other")
    path = place / "other" / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"] |= {"c": 7, "d": 6}
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(InvalidInputError, match=r"numerator has other tokens than .*other, and"):
        LogRatioWorker(str(place / "reward"), str(place / "other"))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"numerator": "a"}, "denominator: Field required"),
        ({"numerator": "a", "denominator": "b", "third": "c"}, "third: Extra inputs"),
        ({"numerator": "a", "denominator": "b", "temperature": 0.0}, "temperature: .*than 0"),
    ],
)
def test_a_file_that_does_not_name_two_policies_is_refused_with_the_remedy(place, values, reason):
    write(place, **values)
    error = rf"log_ratio\.json cannot be read \({reason}.*\); write it as"
    with pytest.raises(InvalidInputError, match=error):
        LogRatioWorker(str(place / "reward"), str(place / "init"))


def test_a_reward_that_is_not_finite_names_the_prompts(place):
    model = AutoModelForCausalLM.from_pretrained(place / "reward" / "numerator")
    model.model.norm.weight.data.fill_(math.nan)
    model.save_pretrained(place / "reward" / "numerator")
    worker = LogRatioWorker(str(place / "reward"), str(place / "init"))
    with pytest.raises(RewardError, match="prompt 7: the reward is nan") as error:
        worker.score(trajectories(), [""] * 3)
    assert error.value.prompt_ids == (7, 9)
