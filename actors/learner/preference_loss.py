"""The loss of a microbatch of an auxiliary batch: preferences, or demonstrations."""

from torch import Tensor

from actors.config.objective import SftConfig
from actors.config.preferences import PreferencesConfig
from actors.learner.microbatches import Part
from actors.learner.policy_loss import Scored, sft_loss
from actors.messages import AuxiliaryBatch
from alignment.divergences.lookup import divergence_record
from alignment.mdp.segments import sequence_sums
from alignment.objectives.direct_preference import direct_preference
from alignment.objectives.identity_preference import identity_preference
from alignment.objectives.kahneman_tversky import kahneman_tversky
from alignment.objectives.output import ObjectiveOutput
from alignment.objectives.self_play import self_play
from alignment.preferences.lookup import preference_likelihood


def auxiliary_loss(
    auxiliary: AuxiliaryBatch,
    scored: Scored,
    part: Part,
    config: PreferencesConfig | None,
    *,
    sft: SftConfig,
    demonstrations_weight: float,
    reference_distance: float,
) -> ObjectiveOutput:
    """Return a microbatch's part of the loss of an auxiliary batch, weighted, and diagnostics.

    Args:
        config: None in a job without preferences, which has no comparisons.
        demonstrations_weight: of the demonstrations' loss.
        reference_distance: estimate of KL(policy, reference) in nats; for kahneman_tversky.
    """
    if part == "demonstrations":
        output = sft_loss(
            scored,
            sft,
            num_sequences=auxiliary.num_demonstrations,
            num_action_tokens=auxiliary.num_demonstration_tokens,
        )
        return output._replace(loss=demonstrations_weight * output.loss)
    assert config
    output = _preference_loss(scored, config, auxiliary, reference_distance)
    return output._replace(loss=config.parameters.weight * output.loss)


def _preference_loss(
    scored: Scored, config: PreferencesConfig, auxiliary: AuxiliaryBatch, reference_distance: float
) -> ObjectiveOutput:
    """Return the loss of a microbatch of comparisons, without its weight."""
    ranks, groups = scored.rewards, scored.batch.group_index
    ratios, beta = _log_ratios(scored), config.parameters.beta
    # A step without comparisons has a padding microbatch, whose loss is divided by 1.
    num_comparisons = max(auxiliary.num_comparisons, 1)
    num_compared = max(auxiliary.num_compared, 1)
    if config.is_self_play:
        return self_play(ratios, ranks, groups, beta=beta, num_comparisons=num_comparisons)
    match config.objective:
        case "identity":
            return identity_preference(
                ratios, ranks, groups, beta=beta, num_comparisons=num_comparisons
            )
        case "kahneman_tversky":
            return kahneman_tversky(
                ratios,
                ranks,
                reference_kl=reference_distance,
                beta=beta,
                **config.objective_parameters,
                num_sequences=num_compared,
            )
        case _:
            return direct_preference(
                ratios,
                ranks,
                groups,
                likelihood=preference_likelihood(config.objective, **config.objective_parameters),
                divergence=divergence_record(
                    config.divergence, tuple(sorted(config.divergence_parameters.given().items()))
                ),
                beta=beta,
                label_smoothing=config.parameters.label_smoothing,
                num_comparisons=num_comparisons,
            )


def _log_ratios(scored: Scored) -> Tensor:
    """[sequence] log policy - log reference of whole responses, in nats."""
    assert scored.reference_logprobs is not None
    differences = scored.logprobs - scored.reference_logprobs
    batch = scored.batch
    return sequence_sums(differences, batch.sequence_index, batch.num_sequences)
