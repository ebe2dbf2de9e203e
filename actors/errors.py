"""Errors that cross packages and processes; the driver's failure policy decides what follows."""

from collections.abc import Iterable


class RetryableError(RuntimeError):
    """The worker works and the request is valid; another attempt may succeed."""


class WeightMismatchError(RuntimeError):
    """Weights are not those that were published."""


class RewardError(RuntimeError):
    """A reward could not be computed; the message names the first prompt and the cause."""

    prompt_ids: tuple[int, ...] = ()
    """All prompts of the request without a reward; empty if they are not known."""

    def __init__(self, message: str, prompt_ids: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.prompt_ids = tuple(prompt_ids)


class InvalidInputError(ValueError):
    """The user's input cannot be used; the message names the value, the limit and the remedy."""


class DamagedCheckpointError(RuntimeError):
    """The files of a checkpoint are not those that were written, and there is no other one."""


class CheckpointFailedError(RuntimeError):
    """A checkpoint could not be written; the one before it is complete."""


class TrainingDivergedError(RuntimeError):
    """Several steps in a row could not be applied to the weights; the message says why."""


class DiscriminatorNotReadyError(RuntimeError):
    """The discriminator's warm-up ended without discriminator.ready_auc; the message says more."""


class RunFailedError(RuntimeError):
    """The run ended with an error; the message says which."""
