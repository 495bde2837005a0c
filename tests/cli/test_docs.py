"""docs/cli.md and import.md have each command, argument and option, and no other."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.main import get_command

from botsessions.cli.app import app
from tests.cli.tool import ROOT

TEXT = (ROOT / "docs" / "cli.md").read_text()
IMPORTS = (ROOT / "docs" / "import.md").read_text()
SECTIONS: dict[str, tuple[str, str]] = {
    name: (arguments, text)
    for name, arguments, text in re.findall(
        r"^## `([a-z-]+(?: [a-z-]+)*)([A-Z ]*)`\n(.*?)(?=^## |\Z)",
        TEXT + IMPORTS,
        re.DOTALL | re.MULTILINE,
    )
}
# Said once, for all commands that have them.
COMMON = {"--store", "--namespace", "--json", "--help"}
COMMON_OF_IMPORTS = {"--write", "--partial"}


def commands(group: Any, beginning: str = "") -> dict[str, Any]:
    """Return all commands by what is to be typed, those of groups, too."""
    found: dict[str, Any] = {}
    for name, command in vars(group)["commands"].items():
        if "commands" in vars(command):
            found |= commands(command, f"{beginning}{name} ")
        else:
            found[beginning + name] = command
    return found


COMMANDS = commands(get_command(app))


def options(command: Any) -> set[str]:
    return {name for option in command.params for name in option.opts if name[0] == "-"}


def test_each_command_has_a_section() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_of_a_command_is_in_its_section(name: str) -> None:
    common = COMMON | COMMON_OF_IMPORTS if name.startswith("import-from ") else COMMON
    documented = set(re.findall(r"(?<!-)--[a-z][a-z-]+", SECTIONS[name][1]))
    assert documented - common == options(COMMANDS[name]) - common


@pytest.mark.parametrize("name", COMMANDS)
def test_each_argument_of_a_command_is_in_its_heading(name: str) -> None:
    arguments = [
        parameter.metavar
        for parameter in COMMANDS[name].params
        if parameter.opts[0][0] != "-"
    ]
    assert SECTIONS[name][0].split() == arguments


def test_the_common_options_are_said_once() -> None:
    introduction = TEXT.partition("\n## ")[0]
    assert {name for name in COMMON if f"`{name}" in introduction} == COMMON
    for name, command in COMMANDS.items():
        assert options(command) >= {"--json"}
        if name.startswith("import-from "):
            assert options(command) >= COMMON_OF_IMPORTS
    introduction = IMPORTS.partition("\n## ")[0]
    assert all(f"`{name}`" in introduction for name in COMMON_OF_IMPORTS)


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_option_explains_itself(name: str) -> None:
    assert COMMANDS[name].help
    assert all(parameter.help for parameter in COMMANDS[name].params)
