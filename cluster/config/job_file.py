"""Reads a job file, and reports each mistake in it in one sentence."""

import difflib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from actors.errors import InvalidInputError
from alignment.data.rows import HUB
from cluster.config.run_config import RunConfig

Settings = dict[str, Any]
"""Nested settings, as YAML loads them."""

LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
"""Key of the limit in the error's context, and its wording, by type of pydantic's error."""

RENAMED = {
    "warm_start": "sft",
    "preferences.parameters.demonstrations": "preferences.parameters.sft_weight",
    "preferences.parameters.alpha": "preferences.divergence_parameters.alpha",
    "preferences.parameters.skew": "preferences.divergence_parameters.skew",
}
"""Settings that had another name before version 0.2."""


def load_job(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a job file, apply overrides, and check the result.

    Args:
        path: a YAML file. Relative paths in it and in overrides are relative to its folder.
        overrides: each "section.setting=value", the value read as YAML.

    Returns:
        The configuration, its paths absolute.

    Raises:
        InvalidInputError: listing every unknown, missing or unusable setting.
    """
    settings = _read_yaml(path)
    for override in overrides:
        _apply(settings, override)
    _resolve_paths(settings, path.resolve().parent)
    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        raise InvalidInputError(_as_sentences(str(path), error)) from error


def setting_paths(model: type[BaseModel] = RunConfig, prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every setting, lists as rewards.0, sections included."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        yield path
        for annotation in (field.annotation, *get_args(field.annotation)):
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                is_list = get_origin(field.annotation) is tuple
                yield from setting_paths(annotation, f"{path}.0." if is_list else f"{path}.")


def _read_yaml(path: Path) -> Settings:
    """Read a YAML file that holds settings by name."""
    if not path.is_file():
        moved = "deploy/runs is now deploy/jobs; " if "deploy/runs" in str(path) else ""
        raise InvalidInputError(
            f"{path}: no such job file; {moved}deploy/jobs and deploy/examples have files to copy"
        )
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise InvalidInputError(f"{path}, line {line}: not YAML ({error.problem})") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InvalidInputError(f"{path}: cannot be read as YAML ({error})") from error
    if not isinstance(settings, dict):
        raise InvalidInputError(f'{path}: has no settings; add lines such as "name: my-run"')
    return settings


def _apply(settings: Settings, override: str) -> None:
    """Set one setting, creating the sections above it."""
    key, equals, text = override.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise InvalidInputError(
            f'"{override}" is not of the form section.setting=value, such as objective.steps=50'
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInputError(f'the value of "{override}" is not YAML; quote it') from error
    section: Settings | list[Any] = settings
    for name in names[:-1]:
        section = _section(section, name, override)
    if isinstance(section, list):
        section[_list_index(section, names[-1], override)] = value
    else:
        section[names[-1]] = value


def _section(parent: Settings | list[Any], name: str, override: str) -> Settings | list[Any]:
    """Return the section or the list below a parent; a missing section is created."""
    if isinstance(parent, list):
        child = parent[_list_index(parent, name, override)]
    else:
        child = parent[name] = {} if parent.get(name) is None else parent[name]
    if isinstance(child, dict | list):
        return child
    raise InvalidInputError(f'"{override}": {name} is a single value, not a section')


def _list_index(items: list[Any], name: str, override: str) -> int:
    if name.isdecimal() and int(name) < len(items):
        return int(name)
    raise InvalidInputError(
        f'"{override}": index {name} is out of range; the list has length {len(items)}'
    )


def _resolve_paths(settings: Settings, folder: Path) -> None:
    """Make the relative paths in the settings, which are relative to the folder, absolute."""
    rewards = settings.get("rewards")
    for section in (settings.get("data"), settings.get("preferences")):
        path = section.get("path") if isinstance(section, dict) else None
        if isinstance(section, dict) and isinstance(path, str) and not path.startswith(HUB):
            section["path"] = str((folder / Path(path).expanduser()).resolve())
    sources = rewards if isinstance(rewards, list) else []
    models = [(settings.get("model"), "name"), (settings.get("teacher"), "model")]
    for section, key in [*models, *((each, "model") for each in sources)]:
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = _model_path(section[key], folder)


def _model_path(name: str, folder: Path) -> str:
    """Return the absolute path of a model folder, or a hub name as it is.

    A name that begins with a dot, a slash or a tilde is a path, whether it exists or not. Any other
    name is a path only if that folder exists.
    """
    path = (folder / Path(name).expanduser()).resolve()
    return str(path) if name.startswith((".", "/", "~")) or path.is_dir() else name


def _as_sentences(place: str, error: ValidationError) -> str:
    """Return the errors of the settings: a sentence, or a list of them."""
    sentences = [_as_sentence(details) for details in error.errors(include_url=False)]
    if len(sentences) == 1:
        return f"{place}: {sentences[0]}"
    return f"{place} has {len(sentences)} mistakes:\n" + "\n".join(f"- {s}" for s in sentences)


def _as_sentence(details: ErrorDetails) -> str:
    """Return the error of one setting, with its value and the limit."""
    setting = ".".join(str(part) for part in details["loc"])
    if details["type"] == "extra_forbidden":
        return _unknown(setting)
    if details["type"] == "missing":
        return f"{setting} is missing; it has no default"
    if details["type"] == "value_error":
        reason = str(details["ctx"]["error"])
        is_named = reason.startswith(setting)  # by a rule on several settings of one section
        return reason if is_named else f"{setting}: {reason}"
    return f"{setting} is {details['input']!r}; {_what_it_should_be(details)}"


def _what_it_should_be(details: ErrorDetails) -> str:
    """Return what the value of a setting must be."""
    kind, context = details["type"], details.get("ctx", {})
    if kind in LIMITS:
        limit, words = LIMITS[kind]
        return f"it must be {words} {context[limit]:g}"
    if kind == "literal_error":
        return f"it must be {context['expected']}"
    if kind == "string_pattern_mismatch":
        return f"it must match {context['pattern']}"
    if kind in {"model_type", "dict_type"}:
        return "it must be a section of settings"
    message = details["msg"].removeprefix("Input should be ").partition(",")[0]
    return f"it should be {message}"


def _unknown(setting: str) -> str:
    """Return the error of an unknown setting, with its new name or the nearest one."""
    if setting in RENAMED:
        return f"{setting} was renamed to {RENAMED[setting]}; use the new name"
    section, dot, name = setting.rpartition(".")
    above = re.sub(r"\b\d+\b", "0", section)  # every item of a list has the same settings
    known = [path.rpartition(".") for path in setting_paths()]
    siblings = [known_name for prefix, _, known_name in known if prefix == above]
    near = difflib.get_close_matches(name, siblings, n=1)
    elsewhere = [f"{prefix}.{name}" for prefix, _, known_name in known if known_name == name]
    if near or elsewhere:
        meant = f"{section}{dot}{near[0]}" if near else elsewhere[0]
        return f"unknown setting {setting}; did you mean {meant}?"
    return f"unknown setting {setting}; the settings there are {', '.join(siblings)}"
