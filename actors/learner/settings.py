"""The settings of a learner rank."""

from pathlib import Path
from typing import Literal, NamedTuple

from actors.config.learner import LearnerConfig
from actors.config.objective import ObjectiveConfig, SftConfig
from actors.config.preferences import PreferencesConfig


class LearnerSettings(NamedTuple):
    """The parts of a run's configuration that a learner needs."""

    model: str
    """Folder or hub name of the model to begin from, in Hugging Face format."""
    weights: Path
    """Folder of the weight store."""
    sft: SftConfig
    objective: ObjectiveConfig
    temperature: float
    """Sampling temperature, at which all log-probabilities except the canary's are computed."""
    published_dtype: Literal["bfloat16", "float32"]
    """Precision of published weights."""
    config: LearnerConfig
    context_tokens: int
    """Longest prompt and response of the engines together; limits the canary."""
    teacher: str | None = None
    """Folder or hub name of the expert if it is a model; its output head is read."""
    preferences: PreferencesConfig | None = None
