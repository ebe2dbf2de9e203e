"""What a model's files say, read without loading a weight, and the models that are refused."""

import json
import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

from actors.errors import InvalidInputError
from actors.rewards.sources import member_names


class ModelSize(NamedTuple):
    """What a model's memory follows from."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    vocab_size: int


SAFE_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
"""What is fetched of a hub model: no code and no pickles."""


PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How the class names of decoder language models end."""


MAX_HEADER_BYTES = 100 * 2**20
"""The safetensors format's own limit; more means that the file is something else."""


class ModelFiles(NamedTuple):
    """A model in Hugging Face format."""

    folder: Path
    """Where its files are: as named, or in the Hub's cache."""
    architecture: str
    """Its class in transformers."""
    size: ModelSize
    max_tokens: int | None
    """Of its context window; None if its configuration names no limit."""


def policy_files(name: str) -> ModelFiles:
    """Inspect the language model that is to be aligned.

    Returns:
        What its files say.

    Raises:
        InvalidInputError: if it does not exist, needs code of its own, has no safetensors, or is
            no decoder language model.
    """
    files, config = _inspect(name)
    if config.get("is_encoder_decoder") or not files.architecture.endswith(CAUSAL):
        raise InvalidInputError(
            f"model {name} is a {files.architecture}; only a decoder language model (a class named "
            "...ForCausalLM) can be aligned"
        )
    return files


def reward_model_files(name: str) -> ModelFiles:
    """Inspect a reward model, which has to have one output, or each member of an ensemble.

    Returns:
        What its files say; of an ensemble the first member's, with the parameters of all.

    Raises:
        InvalidInputError: as for a policy, or if it does not give exactly one number.
    """
    members = [_reward_model_files(member) for member in member_names(name)]
    num_parameters = sum(files.size.num_parameters for files in members)
    return members[0]._replace(size=members[0].size._replace(num_parameters=num_parameters))


def _reward_model_files(name: str) -> ModelFiles:
    files, config = _inspect(name)
    num_outputs = len(config.get("id2label") or "ab")  # transformers' default is two labels
    if not files.architecture.endswith("ForSequenceClassification") or num_outputs != 1:
        raise InvalidInputError(
            f"reward model {name} is a {files.architecture} with {num_outputs} outputs; it must be "
            "a ...ForSequenceClassification with one"
        )
    return files


def _inspect(name: str) -> tuple[ModelFiles, dict[str, Any]]:
    folder = _folder(name)
    config = _json(folder / "config.json", name)
    if "auto_map" in config:
        raise InvalidInputError(
            f"model {name} needs code of its own (auto_map in config.json), which is never run; "
            "use a model that transformers knows"
        )
    architectures = config.get("architectures") or ["model of unnamed architecture"]
    text = config.get("text_config") or config
    size = ModelSize(
        num_parameters=sum(_num_parameters(file) for file in _weight_files(folder, name)),
        num_layers=_first(text, "num_hidden_layers", "n_layer") or 1,
        hidden_size=_first(text, "hidden_size", "n_embd") or 0,
        vocab_size=text.get("vocab_size", 0),
    )
    limit = _first(text, "max_position_embeddings", "n_positions")
    return ModelFiles(folder, architectures[0], size, limit), config


def _folder(name: str) -> Path:
    """Return the folder of a model, fetched from the Hub if its name is no path."""
    path = Path(name)
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")):
        raise InvalidInputError(
            f"model.name: there is no folder {name}; it must hold config.json and *.safetensors"
        )
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow, and rarely needed

    try:
        return Path(snapshot_download(name, allow_patterns=SAFE_FILES))
    except (OSError, ValueError) as error:  # not found, not allowed, offline, not a name
        reason = str(error).strip().partition("\n")[0]
        raise InvalidInputError(
            f"model {name} is no folder beside the job file, and the Hugging Face Hub does not "
            f"give it ({reason}); check the name and the network, or download it and name the "
            "folder"
        ) from error


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"model {name}: {path.name} cannot be read ({error}); name a folder in Hugging Face "
            "format, with config.json and *.safetensors"
        ) from error
    if not isinstance(content, dict):
        raise InvalidInputError(f"model {name}: {path.name} holds no settings")
    return content


def _first(config: dict[str, Any], *names: str) -> int | None:
    """Return the first setting that is there: older architectures use other names."""
    return next((int(config[name]) for name in names if config.get(name) is not None), None)


def _weight_files(folder: Path, name: str) -> list[Path]:
    """Return the files that transformers would load; some repositories hold others beside them."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / file for file in set(_json(index, name).get("weight_map", {}).values())]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = []
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InvalidInputError(f"model {name} lacks {', '.join(sorted(missing))}; fetch it again")
    if not files:
        has_pickles = any(any(folder.glob(pattern)) for pattern in PICKLES)
        why = "only pickled weights, which can run code when read" if has_pickles else "no weights"
        raise InvalidInputError(
            f"model {name} has {why}; it needs model.safetensors (save_pretrained writes it)"
        )
    return sorted(files)


def _num_parameters(file: Path) -> int:
    """Count the numbers in a safetensors file from its header: a length, then JSON."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError("its header is too long")
            header = json.loads(opened.read(length))
        tensors = [entry for key, entry in header.items() if key != "__metadata__"]
        return sum(math.prod(entry["shape"]) for entry in tensors)
    except (OSError, ValueError, KeyError, AttributeError, struct.error) as error:
        raise InvalidInputError(
            f"{file} is not a safetensors file ({error}); fetch it again (a file of a few hundred "
            "bytes is Git LFS's pointer, not the weights)"
        ) from error
