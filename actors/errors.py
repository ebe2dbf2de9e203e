"""Failures that a worker reports and a failure policy decides on."""


class RetryableError(RuntimeError):
    """The worker is well and the request is good; another try may succeed."""


class WeightMismatchError(RuntimeError):
    """The weights in hand are not the weights that were published."""


class RewardError(RuntimeError):
    """A reward could not be computed; the message names the prompt and the cause."""


class InvalidInputError(ValueError):
    """What the user gave cannot be used; the message names the value, the limit and the remedy."""
