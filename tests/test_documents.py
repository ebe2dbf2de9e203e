"""The documents say where things are; here is checked that they are there."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from cluster.cli.main import Commands
from cluster.config.job_file import RENAMED, load_job, setting_paths

ROOT = Path(__file__).parents[1]
READMES = sorted(
    path
    for path in (ROOT / "README.md", *ROOT.glob("[a-z]*/**/README.md"))
    if not {".venv", "runs"} & set(path.relative_to(ROOT).parts)
)
CHANGELOG = ROOT / "CHANGELOG.md"
DOCUMENTS = [*READMES, CHANGELOG]
PACKAGES = ("alignment", "actors", "cluster", "deploy", "tests")
MAX_LINES = 200
MAX_COLUMNS = 120
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
IN_REPOSITORY = re.compile(rf"(?<![\w/.~-])(?:{'|'.join(PACKAGES)})/[\w./-]*[\w/]")
SOURCE_FILE = re.compile(r"[\w/.-]+\.py")
MODULE = re.compile(r"python -m ((?:cluster|deploy|tests)[\w.]*\w)")
WHOLE_JOB = {"name", "model", "data"}


def relative(path):
    return str(path.relative_to(ROOT))


def prose(path):
    """The text without its code blocks."""
    return FENCE.sub("", path.read_text())


def blocks(path, language):
    return [text for name, text in FENCE.findall(path.read_text()) if name == language]


def anchors(path):
    """What GitHub calls the headings of a document."""
    headings = HEADING.findall(prose(path))
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


def problem_with(link, path):
    target, _, anchor = link.partition("#")
    linked = (path.parent / target).resolve() if target else path
    if not linked.exists():
        return f"{link}: there is no such file"
    if anchor and anchor not in anchors(linked):
        return f"{link}: {relative(linked)} has no such heading"
    return None


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_and_images_resolve(path):
    links = [link for link in LINK.findall(prose(path)) if "://" not in link]
    assert [found for link in links if (found := problem_with(link, path))] == []


@pytest.mark.parametrize("path", READMES, ids=relative)
def test_paths_in_the_repository_exist(path):
    code = re.findall(r"`([^`\n]+)`", prose(path))
    named = {*IN_REPOSITORY.findall(path.read_text()), *filter(SOURCE_FILE.fullmatch, code)}
    assert [
        name for name in named if not any((at / name).exists() for at in (ROOT, path.parent))
    ] == []


def test_the_new_names_in_the_changelog_exist():
    old = re.compile(r"^\| .*? \| ", re.MULTILINE)  # the first cell of a row
    named = IN_REPOSITORY.findall(old.sub("", CHANGELOG.read_text()))
    assert named
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", READMES, ids=relative)
def test_modules_in_commands_exist(path):
    modules = MODULE.findall(path.read_text())
    files = [ROOT.joinpath(*module.split(".")) for module in modules]
    assert [
        str(file)
        for file in files
        if not file.with_suffix(".py").exists() and not (file / "__main__.py").exists()
    ] == []


def test_the_first_document_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_lines_are_short_outside_of_tables_and_code(path):
    lines = prose(path).splitlines()
    assert [line for line in lines if len(line) > MAX_COLUMNS and not line.startswith("|")] == []


def test_the_table_of_commands_has_every_command_once():
    rows = re.findall(r"^\| `irlign ([\w-]+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert set(rows) == set(Commands.targets)


@pytest.mark.parametrize("path", READMES, ids=relative)
def test_commands_name_what_there_is(path):
    text = "\n".join((*blocks(path, "sh"), *blocks(path, "")))
    for line in text.replace("\\\n", " ").splitlines():
        if line.removeprefix("$ ").startswith("irlign "):
            assert shlex.split(line.removeprefix("$ "), comments=True)[1] in Commands.targets, line


@pytest.mark.parametrize("path", READMES, ids=relative)
def test_job_files_in_documents_load(path, tmp_path):
    job = yaml.safe_load(blocks(ROOT / "README.md", "yaml")[0])
    assert job.keys() >= WHOLE_JOB
    for text in blocks(path, "yaml"):
        given = yaml.safe_load(text)
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job | given))
        assert load_job(tmp_path / "job.yaml").name


@pytest.mark.parametrize("path", READMES, ids=relative)
def test_settings_in_documents_exist(path):
    known = set(setting_paths())
    sections = {name.partition(".")[0] for name in known if "." in name}
    code = re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)", prose(path))
    named = [name for name in code if name.partition(".")[0] in sections]
    assert [name for name in named if name not in known and not (path.parent / name).exists()] == []


def test_images_in_documents_have_the_version_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = "".join(path.read_text() for path in READMES)
    assert set(re.findall(r"irlign-[cg]pu:([\d.]+\d)", texts)) == {project["version"]}


def test_the_changelog_has_every_renamed_setting():
    rows = CHANGELOG.read_text().splitlines()
    assert [old for old, new in RENAMED.items() if f"| `{old}` | `{new}` |" not in rows] == []


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="is no checkout")
def test_every_document_is_in_the_repository():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(listed.stdout.splitlines()) == sorted(map(relative, DOCUMENTS))
