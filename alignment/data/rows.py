"""Reads the rows of a data set from files, folders or the Hugging Face hub."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

HUB = "hub:"
"""The prefix of a name on the Hugging Face hub."""
HUB_NAME = re.compile(r"hub:(?P<name>[^/:\s]+/[^/:\s]+)(/(?P<subset>[^/:\s]+))?(:(?P<split>\S+))?")
DEFAULT_SPLIT = "train"
SUFFIXES = (".jsonl", ".json", ".parquet")
"""Suffixes of data files in a folder."""
SAVED_MARKS = ("state.json", "dataset_dict.json")
"""Every folder written by datasets.save_to_disk has one of these files."""
Values = dict[str, Any]
"""The values of a row by key. Null values are removed, as a column has a value in every row."""


class SourceRow(NamedTuple):
    """One row and its place in the source."""

    place: str
    """File and line, or file and row, from 1."""
    values: Values


def read_rows(source: str | Path, setting: str) -> Iterator[SourceRow]:
    """Read rows one by one, without reading the whole file first.

    Args:
        source: a file of JSON lines, a JSON array or a Parquet file (.parquet); a folder of such
            files, all of one kind, which are read in the order of their names; a folder written by
            datasets.save_to_disk; or hub:owner/name, hub:owner/name:split and
            hub:owner/name/subset:split, where the split is train by default. Code in a data set is
            never run.
        setting: the setting of the job file that names the source, for errors.

    Yields:
        Rows, in order. Blank lines are skipped.

    Raises:
        ValueError: naming the source, the row, what is wrong, and the remedy.
    """
    if str(source).startswith(HUB):
        yield from _hub_rows(str(source), setting)
        return
    path = Path(source)
    if any((path / mark).is_file() for mark in SAVED_MARKS):
        yield from _saved_rows(path)
        return
    for file in _data_files(path, setting):
        yield from _parquet_rows(file) if file.suffix == ".parquet" else _json_rows(file)


def _data_files(path: Path, setting: str) -> list[Path]:
    """Return the file, or a folder's data files in the order of their names."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(
            f"{path}: no such file; {setting} must name a data file, a folder of them, or "
            f"{HUB}owner/name"
        )
    files = sorted(each for each in path.iterdir() if each.suffix in SUFFIXES and each.is_file())
    kinds = sorted({file.suffix for file in files})
    if len(kinds) != 1:
        has = f"files of {len(kinds)} kinds ({', '.join(kinds)})" if kinds else "no data file"
        raise ValueError(
            f"{path}: contains {has}; a folder must contain files of one kind: "
            f"{', '.join(SUFFIXES)}"
        )
    return files


def _json_rows(path: Path) -> Iterator[SourceRow]:
    """Read a JSON array, which begins with a bracket, or JSON lines."""
    try:
        # newline: text may hold U+2028, which JSON allows inside a string, and keeps its own "\r"
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            is_array = file.read(1) == "["
            file.seek(0)
            if is_array:
                yield from _array_rows(path, file.read())
                return
            for number, line in enumerate(file, start=1):
                if line.strip():
                    value = _parsed(line.rstrip("\r\n"), path, number)
                    yield _row(f"{path}, line {number}", value)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as UTF-8 text ({error})") from error


def _array_rows(path: Path, text: str) -> Iterator[SourceRow]:
    values = _parsed(text, path, 1)
    assert isinstance(values, list)  # the text begins with a bracket
    for number, value in enumerate(values, start=1):
        yield _row(f"{path}, row {number}", value)


def _parsed(text: str, path: Path, first_line: int) -> object:
    """Parse JSON that begins at a line of a file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path}, line {first_line + error.lineno - 1}: not JSON ({error.msg} at column "
            f"{error.colno}); each line must be one complete JSON object, or the whole file one "
            "JSON array"
        ) from error


def _is_unicode(value: object) -> bool:
    """Whether all text in a JSON value can be encoded."""
    if isinstance(value, str):
        return value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value)
    if isinstance(value, list):
        return all(map(_is_unicode, value))
    return not isinstance(value, dict) or all(map(_is_unicode, value.values()))


def _row(place: str, value: object) -> SourceRow:
    """Check that a value is an object whose text every tokenizer can encode."""
    if not isinstance(value, dict):
        raise ValueError(f'{place}: not an object; write {{"prompt": "...", "response": "..."}}')
    for key, held in value.items():
        if not _is_unicode(held):
            raise ValueError(
                f'{place}: "{key}" contains half of a character (an unpaired surrogate such as '
                "\\ud83d); write the character whole, or remove it"
            )
    return SourceRow(place, {key: held for key, held in value.items() if held is not None})


def _parquet_rows(path: Path) -> Iterator[SourceRow]:
    from pyarrow import ArrowException, parquet  # type: ignore[import-untyped] # noqa: PLC0415

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for value in batch.to_pylist():
                    number += 1
                    yield _row(f"{path}, row {number}", value)
    except (OSError, ArrowException) as error:
        raise ValueError(f"{path}: cannot be read as Parquet ({error})") from error


def _saved_rows(path: Path) -> Iterator[SourceRow]:
    """Read a folder of datasets.save_to_disk: one split, or the train split of several."""
    from datasets import load_from_disk  # type: ignore[import-untyped] # noqa: PLC0415

    listing = path / "dataset_dict.json"
    if listing.is_file():
        splits = json.loads(listing.read_text(encoding="utf-8"))["splits"]
        if DEFAULT_SPLIT not in splits:
            raise ValueError(
                f"{path}: has no split {DEFAULT_SPLIT}; name one of its folders: "
                f"{', '.join(splits)}"
            )
        path = path / DEFAULT_SPLIT
    yield from _data_set_rows(str(path), lambda: load_from_disk(str(path)))


def _hub_rows(source: str, setting: str) -> Iterator[SourceRow]:
    from datasets import load_dataset  # noqa: PLC0415

    match = HUB_NAME.fullmatch(source)
    if match is None:
        raise ValueError(
            f"{setting}: {source} is no name on the hub; write {HUB}owner/name, "
            f"{HUB}owner/name:split or {HUB}owner/name/subset:split"
        )
    name, subset, split = match["name"], match["subset"], match["split"] or DEFAULT_SPLIT
    yield from _data_set_rows(source, lambda: load_dataset(name, subset, split=split))


def _data_set_rows(place: str, load: Callable[[], Any]) -> Iterator[SourceRow]:
    """Yield the rows of a data set that the datasets library loads."""
    try:
        data_set = load()
    except Exception as error:  # the libraries that reach the hub raise many types
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{place}: cannot be loaded ({type(error).__name__}: {reason}); check the name and the "
            "connection to the hub, or give the data as a file"
        ) from error
    for number, value in enumerate(data_set, start=1):
        yield _row(f"{place}, row {number}", value)
