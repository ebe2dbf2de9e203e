"""Trains one member of an ensemble of reward models and writes its files."""

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from actors.config.reward_model import RewardModelSettings
from actors.reward_model.files import save_reward_model
from actors.reward_model.trainer import Report, RewardModelTrainer
from alignment.data.tokenized import TokenizedComparisons
from alignment.rewards.evaluation import FEATURES

HELD_OUT = "held_out.json"
"""File in a member's folder with its outputs for the held-out rows."""
FEATURE_ROWS = 4000
"""Rows whose features are saved: enough to refit a head of a few hundred weights many times, in a
file of about ten MiB."""
HELD_OUT_FEATURE_FRACTION = 0.25
"""Largest fraction of these rows that are held-out ones."""


def train_member(
    data: TokenizedComparisons,
    settings: RewardModelSettings,
    member: int,
    run_dir: Path,
    report: Report,
    *,
    device: torch.device,
    rank: int,
    world_size: int,
) -> Path:
    """Train a member from the start, measure it on the held-out rows, and write its files.

    Args:
        run_dir: where the folder is written, and the features of member 0.

    Returns:
        The folder, which the caller gives its final name.
    """
    trainer = RewardModelTrainer(
        data, settings, member, device=device, rank=rank, world_size=world_size
    )
    steps = rows_of_steps(data.train_rows, settings, member)
    for step, rows in enumerate(steps):
        report(trainer.update(rows, step, len(steps)))
    outputs, _ = trainer.measure(data.held_out_rows, report)
    folder = run_dir / f"member-{member}.partial"
    save_reward_model(folder, trainer.model, source=settings.model, rank=rank)
    if rank == 0:
        held_out = {
            "scores": outputs[:, 0].tolist(),
            "log_scales": outputs[:, 1].tolist() if outputs.shape[1] == 2 else None,
            "log_tie": float(trainer.log_tie.detach()),
        }
        (folder / HELD_OUT).write_text(json.dumps(held_out))
    if member == 0:
        save_features(run_dir / FEATURES, data, trainer, report, rank)
    return folder


def rows_of_steps(
    train_rows: NDArray[np.int64], settings: RewardModelSettings, member: int
) -> list[NDArray[np.int64]]:
    """Return the rows of each optimizer step of a member; the last step may have fewer.

    A single model is trained on all rows. A member of an ensemble draws as many rows with
    replacement once (bootstrap). Each epoch has an order of its own.
    """
    rng = np.random.default_rng([settings.seed % 2**64, member])
    rows = train_rows
    if settings.num_members > 1:
        rows = rng.choice(train_rows, len(train_rows))
    draws = np.concatenate([rng.permutation(rows) for _ in range(settings.num_epochs)])
    size = settings.comparisons_per_step
    return np.split(draws, range(size, len(draws), size))


def save_features(
    path: Path,
    data: TokenizedComparisons,
    trainer: RewardModelTrainer,
    report: Report,
    rank: int,
) -> None:
    """Write the inputs of the head for some rows; all ranks call it, rank 0 writes.

    The file holds features [response, hidden], rows [response] of the data, ranks [response] and
    is_held_out [response], 0 or 1. The rows are evenly spaced among the training rows and among the
    held-out rows.
    """
    held_out = _spread(data.held_out_rows, int(FEATURE_ROWS * HELD_OUT_FEATURE_FRACTION))
    rows = np.concatenate([held_out, _spread(data.train_rows, FEATURE_ROWS - len(held_out))])
    _, features = trainer.measure(rows, report, with_features=True)
    if rank != 0 or features is None:
        return
    sizes = data.sizes[rows]
    columns = {
        "features": np.ascontiguousarray(features),
        "rows": np.repeat(rows, sizes),
        "ranks": data.select(rows).ranks,
        "is_held_out": np.repeat(np.arange(len(rows)) < len(held_out), sizes).astype(np.uint8),
    }
    save_file(columns, path)


def _spread(rows: NDArray[np.int64], max_rows: int) -> NDArray[np.int64]:
    """Return all rows, or max_rows evenly spaced ones."""
    return rows[np.linspace(0, len(rows) - 1, min(max_rows, len(rows))).round().astype(np.int64)]
