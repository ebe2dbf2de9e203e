"""Digests of the data of a run, so that it does not resume on other data without notice."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, TypeAdapter
from xxhash import xxh3_64

from actors.errors import InvalidInputError
from alignment.data.demonstrations import Demonstration
from cluster.config.datasets import RunData
from cluster.config.run_config import RunConfig
from cluster.run_state.files import write_atomically

if TYPE_CHECKING:  # they import torch
    from alignment.data.tokenized import TokenizedComparisons, TokenizedDemonstrations

DATA_DIGESTS = "data.json"


class DataDigest(BaseModel):
    """One data set of a run: its text, the chat template, and the tokens that both give."""

    source: str
    """File, folder or hub name."""
    num_rows: int
    rows: str
    """Digest of the text of all rows, in order."""
    chat_template: str
    """Digest of the tokenizer's chat template."""
    tokens: str
    """Digest of the token ids of all rows and of their split."""


DIGESTS = TypeAdapter(dict[str, DataDigest])


def digest_of(source: str, data: "TokenizedDemonstrations | TokenizedComparisons") -> DataDigest:
    """Return the digest of a data set, in one pass over its rows."""
    rows = xxh3_64()
    for row in data.rows:
        if isinstance(row, Demonstration):
            row = row._replace(columns={})  # noqa: PLW2901  # only metrics read them
        rows.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    tokens = xxh3_64()
    trajectories = data.trajectories
    for column in (trajectories.token_ids, trajectories.action_mask, trajectories.lengths):
        tokens.update(column.tobytes())
    tokens.update(data.held_out_rows.tobytes())
    template = json.dumps(data.tokenizer.chat_template, sort_keys=True).encode()
    return DataDigest(
        source=source,
        num_rows=len(data.rows),
        rows=rows.hexdigest(),
        chat_template=xxh3_64(template).hexdigest(),
        tokens=tokens.hexdigest(),
    )


def data_digests(config: RunConfig, data: RunData) -> dict[str, DataDigest]:
    """Return the digests of the data of a job, by section."""
    preferences = config.preferences.path if config.preferences else None
    source = config.data.path or preferences
    digests = {"data": digest_of(str(source), data.demonstrations)}
    if data.comparisons:
        digests["preferences"] = digest_of(str(preferences), data.comparisons)
    return digests


def read_digests(run_dir: Path) -> dict[str, DataDigest]:
    """Return the digests by section; none if the run has noted none.

    Raises:
        InvalidInputError: if the file is damaged.
    """
    path = run_dir / DATA_DIGESTS
    if not path.exists():
        return {}
    try:
        return DIGESTS.validate_json(path.read_bytes())
    except ValueError as error:
        raise InvalidInputError(
            f"{path} is damaged ({error}); move it away to resume without comparing the data"
        ) from error


def write_digests(run_dir: Path, digests: Mapping[str, DataDigest]) -> None:
    """Note the data of a run."""
    text = DIGESTS.dump_json(dict(digests), indent=1).decode()
    write_atomically(run_dir / DATA_DIGESTS, text + "\n")


def changed_data(before: Mapping[str, DataDigest], after: Mapping[str, DataDigest]) -> list[str]:
    """Return a clause for each data set that differs, with what differs in it."""
    return [
        what
        for section, digest in after.items()
        if section in before and (what := _difference(before[section], digest))
    ]


ACCEPT = "resume on the changed data with --accept-changed-data"


def refuse_changed_data(run_dir: Path, changes: Sequence[str], remedy: str = ACCEPT) -> None:
    """Refuse data that differ from those of the run.

    Args:
        changes: as changed_data returns them.
        remedy: what to do instead of restoring the data, as a clause.

    Raises:
        InvalidInputError: naming what differs and the remedy.
    """
    if changes:
        raise InvalidInputError(
            f"{run_dir} was trained on other data: {'; '.join(changes)}. Restore them, or {remedy}"
        )


def _difference(before: DataDigest, after: DataDigest) -> str | None:
    if before.rows != after.rows:
        count = f"{before.num_rows:,} rows before, {after.num_rows:,} now"
        if before.num_rows == after.num_rows:
            count = f"{after.num_rows:,} rows as before, of which some differ"
        moved = f" (before: {before.source})" if before.source != after.source else ""
        return f"{after.source}{moved} has changed, {count}"
    if before.chat_template != after.chat_template:
        return (
            f"the chat template of the tokenizer has changed; the rows of {after.source} have not"
        )
    if before.tokens != after.tokens:
        return (
            f"the rows of {after.source} have other tokens or another split than before, because "
            "the tokenizer, the system prompt or the version of irlign has changed"
        )
    return None
