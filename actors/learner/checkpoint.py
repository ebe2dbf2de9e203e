"""A learner's checkpoint: its state for resuming, and the policy in Hugging Face format.

FOLDER/learner/         sharded weights, optimizer and reference, for any number of ranks
FOLDER/learner.json     step and contents, written last: without it the checkpoint is incomplete
FOLDER/policy/          the policy in Hugging Face format
FOLDER/failed.txt       in place of learner.json: why the checkpoint could not be written
"""

import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from transformers import AutoTokenizer, GenerationConfig

from actors.distributed import full_tensors
from actors.errors import DamagedCheckpointError, InvalidInputError
from actors.learner.reference_policy import ReferencePolicy
from actors.weights.checksums import CHECKSUMS, LEARNER_FAILED, LEARNER_IS_WHOLE, damage_of
from alignment.models.policy import PolicyModel

logger = logging.getLogger(__name__)
MAX_REASON_CHARACTERS = 300
"""Number of characters kept of an error's text, from its end, which names the cause."""


def save_checkpoint(
    folder: Path,
    policy: PolicyModel,
    optimizer: Optimizer,
    reference: ReferencePolicy | None,
    *,
    step: int,
    source: str,
    temperature: float,
    rank: int,
) -> None:
    """Write a checkpoint; all ranks call it.

    If it cannot be written, on a full disk for example, training continues: the incomplete files
    are deleted, failed.txt holds the reason, and there is no learner.json.

    Args:
        folder: to write into; the caller gives it its final name.
        reference: None before the on-policy stage, or if the loss has none.
        source: folder or hub name of the model that training began with.
        temperature: at which the policy is trained.
    """
    contents = {"step": step, "has_reference": reference is not None}
    try:
        save(_state(policy, optimizer, reference), checkpoint_id=folder / "learner")
        export_policy(folder / "policy", policy, source=source, temperature=temperature, rank=rank)
        if rank == 0:
            (folder / LEARNER_IS_WHOLE).write_text(json.dumps(contents))
    except (OSError, SafetensorError, CheckpointException) as error:
        # Either all ranks see the error or, after the last collective, only the rank that fails: in
        # both cases the ranks stay in step.
        logger.warning("checkpoint %s could not be written: %s", folder, error)
        if rank == 0:
            _note_failure(folder, error)


def _note_failure(folder: Path, error: BaseException) -> None:
    """Delete the incomplete files, then write the reason, unless the disk is still full."""
    (folder / LEARNER_IS_WHOLE).unlink(missing_ok=True)
    for part in ("learner", "policy"):
        shutil.rmtree(folder / part, ignore_errors=True)
    with suppress(OSError):
        (folder / LEARNER_FAILED).write_text(" ".join(str(error).split())[-MAX_REASON_CHARACTERS:])


def restore_checkpoint(
    folder: Path, policy: PolicyModel, optimizer: Optimizer
) -> tuple[int, ReferencePolicy | None]:
    """Read a checkpoint that any number of ranks wrote; all ranks call it.

    Returns:
        Optimizer steps done, and the reference policy if the checkpoint has one.

    Raises:
        InvalidInputError: if the checkpoint is incomplete.
        DamagedCheckpointError: if its files do not match its checksums.
    """
    if (folder / CHECKSUMS).exists() and (damage := damage_of(folder, part="learner")):
        raise DamagedCheckpointError(damage)
    try:
        contents = json.loads((folder / LEARNER_IS_WHOLE).read_text())
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"{folder} holds no complete checkpoint ({LEARNER_IS_WHOLE} is missing); name another "
            "folder"
        ) from error
    reference = ReferencePolicy(policy) if contents["has_reference"] else None
    state = _state(policy, optimizer, reference)
    load(state, checkpoint_id=folder / "learner")
    set_state_dict(
        policy,
        optimizer,
        model_state_dict=state["policy"],
        optim_state_dict=state["optimizer"],
    )
    return int(contents["step"]), reference


def export_policy(
    folder: Path, policy: PolicyModel, *, source: str, temperature: float, rank: int
) -> None:
    """Write the policy so that AutoModelForCausalLM.from_pretrained loads it; all ranks call it.

    generation_config.json tells transformers and vLLM to sample as in training: at its temperature,
    from the whole vocabulary, without penalties.

    Args:
        policy: sharded or not; written in float32, as it is trained.
        source: folder or hub name of the model that training began with, for the tokenizer.
        rank: of this process; rank 0 writes, and holds the whole model in main memory.
    """
    tensors = {}
    for name, tensor in full_tensors(policy, torch.float32):
        if rank == 0:
            tensors[name] = tensor.cpu().contiguous()
    if rank != 0:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    policy.model.config.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    special = policy.model.generation_config
    GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=special.bos_token_id,
        eos_token_id=special.eos_token_id,
        pad_token_id=special.pad_token_id,
        do_sample=True,
        temperature=temperature,
        top_k=0,  # off; the default is 50
        top_p=1.0,
    ).save_pretrained(folder)


def _state(
    policy: PolicyModel, optimizer: Optimizer, reference: ReferencePolicy | None
) -> dict[str, Any]:
    """Return everything that is saved; loading writes into these tensors in place."""
    weights, moments = get_state_dict(policy, optimizer)
    state = {"policy": weights, "optimizer": moments}
    return state if reference is None else {**state, "reference": dict(reference.tensors)}
