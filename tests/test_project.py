"""What the repository promises about itself: its layers, its pins, its imports."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import botsessions

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
PACKAGE = SOURCE / "botsessions"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Joined from parts, so that this file does not name them either.
REGISTRIES = [
    ".".join(parts)
    for parts in [
        ("pypi", "org"),
        ("python" + "hosted", "org"),
        ("anaconda", "org"),
        ("debian", "org"),
        ("npmjs", "org"),
        ("crates", "io"),
    ]
]
DRIVERS_AND_FRAMEWORKS = {
    "aiogram",
    "apsw",
    "asyncpg",
    "redis",
    "rich",
    "telebot",
    "telegram",
    "typer",
}


# Layers: `lint-imports` checks them; these check that nothing escapes it.


def test_each_folder_of_the_package_is_a_package() -> None:
    # The linter does not look into a folder without an __init__.py.
    folders = {module.parent for module in PACKAGE.rglob("*.py")}
    assert {f for f in folders if not (f / "__init__.py").is_file()} == set()


def test_a_module_without_a_layer_fails_the_linter(tmp_path: Path) -> None:
    shutil.copytree(SOURCE, tmp_path / "src")
    (tmp_path / "src" / "botsessions" / "unplaced.py").touch()
    lint = Path(sysconfig.get_path("scripts")) / "lint-imports"
    config = ROOT / "pyproject.toml"
    result = subprocess.run(
        [lint, "--no-cache", "--config", config],
        cwd=tmp_path / "src",  # found there before the installed package
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "unplaced" in result.stdout + result.stderr


# Pins: one hashed file for each group, and nothing that tells where to download.


def pins(name: str) -> dict[str, str]:
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    text = re.sub(r"\\\n", "", re.sub(r"(?m)^ *#.*\n?", "", text))
    found = {}
    for line in filter(None, text.splitlines()):
        pin = re.fullmatch(r"([a-z0-9-]+)==(\S+)( +--hash=sha256:[0-9a-f]{64})+", line)
        assert pin, f"{name}.txt: neither a pin with hashes nor a comment: {line[:80]}"
        found[pin[1]] = pin[2]
    return found


def declared() -> dict[str, list[str]]:
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    runtime = project["dependencies"]
    cli = runtime + project["optional-dependencies"]["cli"]
    plain = {
        name: [line for line in lines if isinstance(line, str)]
        for name, lines in groups.items()
    }
    return {
        "runtime": runtime,
        "cli": cli,
        "test": cli + plain["test"],
        "check": cli + plain["test"] + plain["bench"] + plain["check"],
        "bench": runtime + plain["bench"],
        "build": PYPROJECT["build-system"]["requires"],
        "pip": plain["pip"],
        "lock": plain["lock"],
        "audit": plain["audit"],
        "oldest": runtime + plain["oldest"],
        "peers-aiogram": runtime + plain["peers-aiogram"],
        "peers-telegram": runtime + plain["peers-telegram"],
    }


@pytest.mark.parametrize("name", sorted(declared()))
def test_a_requirement_file_pins_what_is_declared(name: str) -> None:
    found = pins(name)
    for requirement in map(Requirement, declared()[name]):
        version = found.get(canonicalize_name(requirement.name), "no version")
        assert requirement.specifier.contains(version), f"`make lock`: {requirement}"


def test_each_requirement_file_is_declared() -> None:
    files = {path.stem for path in (ROOT / "requirements").iterdir()}
    assert files == set(declared())


def test_a_package_has_one_version_in_all_requirement_files() -> None:
    versions: dict[str, set[str]] = {}
    # The peers ask for versions that exclude each other, and one is of old versions.
    alone = ("peers", "oldest")
    for name in (name for name in declared() if not name.startswith(alone)):
        for package, version in pins(name).items():
            versions.setdefault(package, set()).add(version)
    assert {name: found for name, found in versions.items() if len(found) > 1} == {}


def test_the_oldest_versions_are_the_lower_bounds() -> None:
    project, found = PYPROJECT["project"], pins("oldest")
    extras = project["optional-dependencies"]
    lines = [line for extra in extras if extra != "all" for line in extras[extra]]
    for requirement in map(Requirement, project["dependencies"] + lines):
        [lowest] = [s.version for s in requirement.specifier if s.operator == ">="]
        tested = found.get(canonicalize_name(requirement.name), "no version")
        assert Version(tested) == Version(lowest), requirement


def test_no_file_names_a_registry() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    assert names
    forbidden = re.compile("|".join(map(re.escape, REGISTRIES)).encode())
    found = [
        name
        for name in names
        if (ROOT / name).is_file() and forbidden.search((ROOT / name).read_bytes())
    ]
    assert found == []


def test_import_loads_no_driver_and_no_framework() -> None:
    loaded = subprocess.run(
        [sys.executable, "-I", "-c", "import botsessions, sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    modules = set(loaded.stdout.split())
    assert "botsessions" in modules
    assert modules & DRIVERS_AND_FRAMEWORKS == set()


def test_the_package_under_test_is_this_tree() -> None:
    # A copied .venv would still test the tree that it was made in.
    assert Path(botsessions.__file__).parent == PACKAGE, "run `make clean`"
