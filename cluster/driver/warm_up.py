"""The end of the discriminator's warm-up: as soon as it is ready, or after all its steps.

Ready means that it distinguishes the expert's responses from new ones of the policy, that is, from
responses that it has not been trained on. Before that its logits are mostly noise, and so is the
reward.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from actors.config.scorers import AUC_STEPS, DiscriminatorConfig


class Decision(NamedTuple):
    """Whether the discriminator is ready at the end of its warm-up, in a word and in a sentence."""

    is_ready: bool
    sentence: str


class WarmUp:
    """Owns the warm-up's newest AUCs, and the iteration at which it ended."""

    def __init__(
        self, config: DiscriminatorConfig, begin: int, aucs: Sequence[float], end: int | None
    ) -> None:
        """Continue from the position of a checkpoint.

        Args:
            begin: iteration after which the warm-up begins.
            aucs: of its newest steps, AUC_STEPS of them at most.
            end: iteration at which it ended; None if it has not.
        """
        self._config, self._begin = config, begin
        self.aucs, self.end = list(aucs), end

    @property
    def latest_end(self) -> int:
        """The iteration at which it ended, or will end at the latest."""
        return self._begin + self._config.warm_up_steps if self.end is None else self.end

    def measure(self, metrics: Mapping[str, float]) -> None:
        """Keep the AUC of a step: against held-out demonstrations if there are some.

        Those of the step are new to the discriminator in the first epoch only.
        """
        for name in ("discriminator/auc_held_out", "discriminator/auc_fresh"):
            if name in metrics:
                self.aucs = [*self.aucs, metrics[name]][-AUC_STEPS:]
                return

    def decision(self, iteration: int) -> Decision | None:
        """Return the decision if the warm-up ends at this iteration, else None."""
        auc = fmean(self.aucs) if self.aucs else None
        is_measured = len(self.aucs) == AUC_STEPS
        is_ready = is_measured and auc is not None and auc >= self._config.ready_auc
        done, limit = iteration - self._begin, self._config.warm_up_steps
        if not is_ready and done < limit:
            return None
        found = "was never measured" if auc is None else f"is {auc:.3f}"
        measured = (
            f"its AUC on new samples {found} (mean of the last {len(self.aucs)} warm-up steps), "
            f"and discriminator.ready_auc = {self._config.ready_auc:g}"
        )
        if is_ready:
            begins = f"stage 2 begins after {done} of {limit} warm-up steps of the discriminator"
            return Decision(True, f"{begins}: {measured}")
        begins = "begins although" if self._config.not_ready == "continue" else "does not begin:"
        return Decision(
            False,
            f"stage 2 {begins} the discriminator is not ready after {done} warm-up steps: "
            f"{measured}; much of its reward is noise. Raise discriminator.warm_up_steps, "
            "warm_up_epochs, learning_rate or num_layers; an AUC near 0.5 may also mean that the "
            "policy matches the expert already",
        )
