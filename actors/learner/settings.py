"""What each rank of the learner is told."""

from pathlib import Path
from typing import Literal, NamedTuple

from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, SftConfig
from actors.config.preferences import PreferencesConfig


class LearnerSettings(NamedTuple):
    """What a learner is told of the run."""

    model: str
    """Folder or hub name of the model to begin from, in Hugging Face format."""
    weights: Path
    """Folder of the weight store."""
    sft: SftConfig
    """How demonstrations are cloned."""
    objective: ObjectiveConfig
    temperature: float
    """At which responses are sampled, and all log-probabilities but the canary's computed."""
    published_dtype: Literal["bfloat16", "float32"]
    """Precision of published weights."""
    config: LearnerConfig
    context_tokens: int
    """Of the engines, prompt and response together: the canary must fit."""
    teacher: str | None = None
    """Folder or hub name of the expert, where it is a model; its output head is read."""
    preferences: PreferencesConfig | None = None
    """What stage 2 learns of preferences."""
