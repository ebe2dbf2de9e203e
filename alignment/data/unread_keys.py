"""Keys of a data set that have no effect, so that `irlign check` can name them."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from alignment.data.conversations import MESSAGE_KEYS
from alignment.data.formats import Format, detect_format
from alignment.data.rows import Values, read_rows

FIRST_ROWS = 1000
"""Rows that are looked at: a data set has its columns in every part of it."""
LABELS_OF_ANNOTATORS = {"tie", "ranks", "strength", "margin", "domain"}
"""Further keys that comparisons may have."""


def unread_keys(source: str | Path, setting: str, *, also_read: str | None = None) -> list[str]:
    """Return the keys of the first rows that nothing reads, in the order of their appearance.

    A key of a message is written behind that of its list: messages.tool_calls.

    Args:
        setting: the setting of the job file that names the source, for errors.
        also_read: a column that the job reads for another purpose.

    Raises:
        ValueError: as read_rows and detect_format do.
    """
    found: dict[str, None] = {}
    form = None
    for row in islice(read_rows(source, setting), FIRST_ROWS):
        form = form or detect_format(row.values)
        found |= dict.fromkeys(key for key in _unread(row.values, form) if key != also_read)
    return list(found)


def _unread(values: Values, form: Format) -> Iterator[str]:
    read = form.keys_the_policy_reads
    if form.holds != "demonstrations":
        read = read | LABELS_OF_ANNOTATORS
    for key, value in values.items():
        if key not in read:
            yield key
        elif isinstance(value, list | dict):
            for message in value if isinstance(value, list) else [value]:
                yield from _unread_of_message(key, message)


def _unread_of_message(key: str, message: object) -> Iterator[str]:
    for name, value in message.items() if isinstance(message, dict) else ():
        if name not in MESSAGE_KEYS and value is not None and value != []:
            yield f"{key}.{name}"
