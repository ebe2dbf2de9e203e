"""The number of workers of each kind that a job has, or that a user asks for."""

from collections.abc import Mapping, Sequence

from actors.config.scorers import RewardConfig
from actors.errors import InvalidInputError
from cluster.config.run_config import RunConfig

ROLLOUT = "rollout"
DISCRIMINATOR = "discriminator"
TEACHER = "teacher"
KINDS = (ROLLOUT, DISCRIMINATOR, TEACHER)
"""Kinds of workers other than reward sources."""


def reward_names(sources: tuple[RewardConfig, ...]) -> dict[str, RewardConfig]:
    """Name each reward source after its model or function, with a number if the name is taken."""
    named: dict[str, RewardConfig] = {}
    for source in sources:
        full = source.model or str(source.function)
        name = full.rstrip("/").replace(":", "/").rsplit("/", maxsplit=1)[-1]
        named[f"{name}-{len(named)}" if name in {*named, *KINDS} else name] = source
    return named


def job_sizes(config: RunConfig) -> dict[str, int]:
    """Return the number of workers of each kind that a run has, by the name of its fleet."""
    sizes = {ROLLOUT: config.rollout.num_workers}
    if config.has_discriminator:
        sizes[DISCRIMINATOR] = config.discriminator.num_workers
    if config.teacher and config.has_teacher:
        sizes[TEACHER] = config.teacher.num_workers
    rewards = reward_names(config.rewards)
    return sizes | {name: source.num_workers for name, source in rewards.items()}


def resized(config: RunConfig, wanted: Mapping[str, int]) -> RunConfig:
    """Return a job with these numbers of workers instead of its own.

    Args:
        wanted: workers by kind; other kinds stay as they are.

    Returns:
        The job; unlike a job file it may have 0 rollout workers.
    """
    changes: dict[str, object] = {}
    for kind in KINDS:
        if kind in wanted:
            section = getattr(config, kind)
            changes[kind] = section.model_copy(update={"num_workers": wanted[kind]})

    def source(name: str, reward: RewardConfig) -> RewardConfig:
        number = wanted.get(name, reward.num_workers)
        return reward.model_copy(update={"num_workers": number})

    named = reward_names(config.rewards)
    changes["rewards"] = tuple(source(name, reward) for name, reward in named.items())
    return config.model_copy(update=changes)


def parse_sizes(arguments: Sequence[str]) -> dict[str, int]:
    """Parse arguments such as rollout=8 to a number of workers by kind.

    Raises:
        InvalidInputError: naming the first argument that is not KIND=N.
    """
    sizes: dict[str, int] = {}
    for argument in arguments:
        kind, _, number = argument.rpartition("=")
        if not kind or not number.removeprefix("-").isdecimal():
            raise InvalidInputError(f"{argument!r} is not KIND=N, such as rollout=4")
        if kind in sizes:
            raise InvalidInputError(f"{kind} is given twice: {sizes[kind]} and {number}")
        sizes[kind] = int(number)
    return sizes


def check_sizes(sizes: Mapping[str, int], kinds: Sequence[str]) -> None:
    """Refuse unknown kinds and numbers of workers that no run can have."""
    if not sizes:
        raise InvalidInputError(f"nothing to scale; give KIND=N for one of {', '.join(kinds)}")
    for kind, number in sizes.items():
        if kind not in kinds:
            raise InvalidInputError(
                f"{kind}={number}: this run has no workers of that kind; it has {', '.join(kinds)}"
            )
        if number < 0:
            raise InvalidInputError(f"{kind}={number}: the number of workers must be at least 0")
        if number == 0 and kind != ROLLOUT:
            raise InvalidInputError(
                f"{kind}=0: every step needs at least 1 worker; {ROLLOUT}=0 pauses the run"
            )
