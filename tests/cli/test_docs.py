"""docs/cli.md has each command, argument and option, and no other."""

from __future__ import annotations

import re
from typing import Any

import pytest
from typer.main import get_command

from botsessions.cli.app import app
from tests.cli.tool import ROOT

TEXT = (ROOT / "docs" / "cli.md").read_text()
COMMANDS: dict[str, Any] = vars(get_command(app))["commands"]
SECTIONS: dict[str, str] = dict(
    re.findall(
        r"^## `([a-z-]+)[^`]*`\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE
    )
)
# Said once, for all commands that have them.
COMMON = {"--store", "--namespace", "--json", "--help"}


def options(command: Any) -> set[str]:
    return {name for option in command.params for name in option.opts if name[0] == "-"}


def test_each_command_has_a_section() -> None:
    assert SECTIONS.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_of_a_command_is_in_its_section(name: str) -> None:
    documented = set(re.findall(r"--[a-z]+", SECTIONS[name]))
    assert documented - COMMON == options(COMMANDS[name]) - COMMON


@pytest.mark.parametrize("name", COMMANDS)
def test_each_argument_of_a_command_is_in_its_heading(name: str) -> None:
    arguments = [
        parameter.metavar
        for parameter in COMMANDS[name].params
        if parameter.opts[0][0] != "-"
    ]
    heading = re.search(rf"^## `{name}([^`]*)`$", TEXT, re.MULTILINE)
    assert heading is not None
    assert heading[1].split() == arguments


def test_the_common_options_are_said_once() -> None:
    introduction = TEXT.partition("\n## ")[0]
    assert {name for name in COMMON if f"`{name}" in introduction} == COMMON
    for command in COMMANDS.values():
        assert options(command) >= {"--json"}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_and_option_explains_itself(name: str) -> None:
    assert COMMANDS[name].help
    assert all(parameter.help for parameter in COMMANDS[name].params)
