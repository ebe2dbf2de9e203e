"""Reads the files of a model without loading a weight, and refuses models that cannot be used."""

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from actors.errors import InvalidInputError
from actors.rewards.sources import member_names
from cluster.resources.model_shape import ModelShape, shape_of_config

SAFE_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")
"""Patterns of the files downloaded of a model on the Hub: no code and no pickles."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""Endings of the class names of decoder language models."""
COUNTED_FROM = (
    "hidden_size",
    "num_hidden_layers",
    "vocab_size",
    "num_attention_heads",
    "intermediate_size",
)
"""Settings of config.json that are required to count parameters without the weights."""
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Settings of config.json with the number of experts of a mixture."""
MAX_HEADER_BYTES = 100 * 2**20
"""Limit of the safetensors format; a file with a longer header is something else."""


class ModelFiles(NamedTuple):
    """A model in Hugging Face format."""

    folder: Path
    """Folder of its files: the named one, or one in the Hub's cache."""
    architecture: str
    """Its class in transformers."""
    shape: ModelShape
    max_tokens: int | None
    """Length of its context window; None if its configuration names no limit."""


def policy_files(name: str) -> ModelFiles:
    """Read the files of a language model that can be aligned.

    Raises:
        InvalidInputError: if it does not exist, needs code of its own, has no safetensors, or is
            no decoder language model.
    """
    files, config = _read_model(name)
    if config.get("is_encoder_decoder") or not files.architecture.endswith(CAUSAL):
        raise InvalidInputError(
            f"model {name} is a {files.architecture}; only a decoder language model (a class named "
            "...ForCausalLM) can be aligned"
        )
    return files


def shape_of_files(name: str) -> ModelShape:
    """Read the shape of a dense decoder; of a model on the Hub only config.json is downloaded.

    Parameters are counted in the weights where they are in the folder, else from config.json.

    Raises:
        InvalidInputError: if there is no config.json, or it is not that of a dense decoder.
    """
    folder = _folder(name, ("config.json",))
    config = _json(folder / "config.json", name)
    text = config.get("text_config") or config
    if any(text.get(key) for key in EXPERTS):
        raise InvalidInputError(
            f"model {name} is a mixture of experts, and only dense models can be planned for"
        )
    if any(folder.glob("*.safetensors")):
        return policy_files(str(folder)).shape
    if missing := [key for key in COUNTED_FROM if text.get(key) is None]:
        raise InvalidInputError(
            f"model {name}: config.json does not set {', '.join(missing)}, from which parameters "
            "are counted"
        )
    return _shape(name, text)


def reward_model_files(name: str) -> ModelFiles:
    """Read the files of a reward model, which must have one output, or of an ensemble of them.

    Returns:
        The files of the model or of the first member, with the parameters of all members.

    Raises:
        InvalidInputError: as for a policy, or if it has more than one output.
    """
    members = [_reward_model_files(member) for member in member_names(name)]
    num_parameters = sum(files.shape.num_parameters for files in members)
    return members[0]._replace(shape=members[0].shape._replace(num_parameters=num_parameters))


def _reward_model_files(name: str) -> ModelFiles:
    files, config = _read_model(name)
    num_outputs = len(config.get("id2label") or "ab")  # transformers' default is two labels
    if not files.architecture.endswith("ForSequenceClassification") or num_outputs != 1:
        raise InvalidInputError(
            f"reward model {name} is a {files.architecture} with {num_outputs} outputs; it must be "
            "a ...ForSequenceClassification with one"
        )
    return files


def _read_model(name: str) -> tuple[ModelFiles, dict[str, Any]]:
    folder = _folder(name, SAFE_FILES)
    config = _json(folder / "config.json", name)
    if "auto_map" in config:
        raise InvalidInputError(
            f"model {name} needs code of its own (auto_map in config.json), which is never run; "
            "use a model whose class is in transformers"
        )
    architectures = config.get("architectures") or ["model of unnamed architecture"]
    text = config.get("text_config") or config
    shape = _shape(name, text, sum(_num_parameters(file) for file in _weight_files(folder, name)))
    limit = text.get("max_position_embeddings", text.get("n_positions"))
    return ModelFiles(folder, architectures[0], shape, limit), config


def _shape(name: str, config: dict[str, Any], num_parameters: int | None = None) -> ModelShape:
    try:
        return shape_of_config(config, num_parameters)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"model {name}: config.json does not describe a decoder ({error})"
        ) from error


def _folder(name: str, patterns: Sequence[str]) -> Path:
    """Return the folder of a model; the files of a model on the Hub are downloaded first."""
    path = Path(name)
    if path.is_dir():
        return path
    if name.startswith((".", "/", "~")):
        raise InvalidInputError(
            f"there is no model folder {name}; name one that holds config.json and *.safetensors"
        )
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow, and rarely needed

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:  # not found, not allowed, offline, not a name
        reason = str(error).strip().partition("\n")[0]
        raise InvalidInputError(
            f"model {name} is neither a folder next to the job file nor available on the Hugging "
            f"Face Hub ({reason}); check the name and the network, or download the model and name "
            "its folder"
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
        raise InvalidInputError(f"model {name}: {path.name} is not a JSON object")
    return content


def _weight_files(folder: Path, name: str) -> list[Path]:
    """Return the files that transformers would load; a repository may hold others."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = [folder / file for file in set(_json(index, name).get("weight_map", {}).values())]
    elif (folder / "model.safetensors").is_file():
        files = [folder / "model.safetensors"]
    else:
        files = []
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise InvalidInputError(
            f"model {name} lacks {', '.join(sorted(missing))}; download it again"
        )
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
            f"{file} is not a safetensors file ({error}); download it again (a file of a few "
            "hundred bytes is a Git LFS pointer, not the weights)"
        ) from error
