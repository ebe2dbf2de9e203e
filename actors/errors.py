"""Failures that a worker reports and a failure policy decides on."""

from collections.abc import Iterable


class RetryableError(RuntimeError):
    """The worker is well and the request is good; another try may succeed."""


class WeightMismatchError(RuntimeError):
    """The weights in hand are not the weights that were published."""


class RewardError(RuntimeError):
    """A reward could not be computed; the message names the first prompt and the cause."""

    prompt_ids: tuple[int, ...] = ()
    """All prompts of the request that have no reward; empty if that is not known."""

    def __init__(self, message: str, prompt_ids: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.prompt_ids = tuple(prompt_ids)


class InvalidInputError(ValueError):
    """What the user gave cannot be used; the message names the value, the limit and the remedy."""


class DamagedCheckpointError(RuntimeError):
    """A checkpoint's files are not those that were written, and there is no other to use."""


class CheckpointFailedError(RuntimeError):
    """A checkpoint could not be written; the one before it is whole."""


class TrainingDivergedError(RuntimeError):
    """Several steps in a row could not be applied to the weights; the message says why."""


class RunFailedError(RuntimeError):
    """The run ended with an error; the message says which."""
