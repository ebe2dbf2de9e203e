"""Errors that cross packages and processes; the driver's failure policy decides what follows."""

from collections.abc import Iterable

MAX_CHARS = 400
"""Length of an error's text in an event."""


def one_line(error: BaseException) -> str:
    """Return an error as one line: its type, its text up to MAX_CHARS, and its direct cause."""
    line = _with_type(error)
    if error.__cause__ is not None and not hasattr(error.__cause__, "cause"):  # not Ray's wrapper
        line += f" (caused by {_with_type(error.__cause__)})"
    return line


def _with_type(error: BaseException) -> str:
    text = " / ".join(line.strip() for line in str(error).splitlines() if line.strip())
    text = text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


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


class RunAbandonedError(RuntimeError):
    """A signal ended the command; the message says what is left of the run."""


class RunFailedError(RuntimeError):
    """The run ended with an error; the message says which."""
