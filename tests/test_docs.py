"""What the documentation says is so: its code runs, its links lead somewhere.

Each ``python`` block of README.md and of docs/ runs. The blocks of a page run in order
in one namespace, on one event loop, in an empty directory: sqlite:///sessions.db is a
new file there. They may use ``await``, ``async with`` and ``async for`` at top level.
``update`` is there from the start: a message of Telegram, as the raw dict, in which
user 42 writes /start in the private chat 42. A block under the line
``<!-- not run: the reason -->`` is compiled only.
"""

from __future__ import annotations

import ast
import asyncio
import copy
import datetime as dt
import inspect
import os
import re
import subprocess
import sys
import textwrap
import tokenize
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import pytest

import botsessions as bs

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CHANGELOG = ROOT / "CHANGELOG.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md"))]
MARKDOWN = sorted(
    {
        *PAGES,
        *ROOT.glob("*.md"),
        *(
            page
            for folder in ("benchmarks", "examples", "requirements", "src", "tests")
            for page in (ROOT / folder).rglob("*.md")
        ),
    }
)
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda p: str(p.relative_to(ROOT))
)
each_markdown = pytest.mark.parametrize(
    "page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT))
)

# Other spellings (py, Python, none at all) would pass by what runs the blocks.
LANGUAGES = {"python", "console", "elixir", "json", "sh", "sql", "text", "toml"}

UPDATE: dict[str, Any] = {
    "update_id": 10000,
    "message": {
        "message_id": 1365,
        "date": 1777874400,
        "chat": {"id": 42, "type": "private", "first_name": "Ada"},
        "from": {"id": 42, "is_bot": False, "first_name": "Ada", "language_code": "en"},
        "text": "/start",
        "entities": [{"type": "bot_command", "offset": 0, "length": 6}],
    },
}


# Reading pages.


class Block(NamedTuple):
    """A fenced block; ``line`` is that of its first line of code in the page."""

    language: str
    line: int
    code: str
    runs: bool


class Page(NamedTuple):
    """What a page consists of; ``prose`` is all that stands in no block."""

    blocks: list[Block]
    prose: str


FENCE = re.compile(r"( *)(`{3,}|~{3,})(.*)")
NOT_RUN = re.compile(r"<!-- not run: \S.* -->")


def read(path: Path) -> str:
    assert path.is_file(), f"{path.name} is missing, and the documentation needs it"
    return path.read_text(encoding="utf-8")


def parse(path: Path) -> Page:
    lines = enumerate(read(path).splitlines(), 1)
    blocks: list[Block] = []
    prose: list[str] = []
    runs = True
    for number, line in lines:
        if fence := FENCE.fullmatch(line):
            indent, mark, language = fence.groups()
            if not runs and language != "python":
                _refuse(path, number, "only python blocks are run in the first place")
            code = []
            for _, inner in lines:
                if re.fullmatch(rf" *{mark[0]}{{{len(mark)},}} *", inner):
                    break
                code.append(inner.removeprefix(indent) + "\n")
            else:
                _refuse(path, number, "this block has no end")
            blocks.append(Block(language, number + 1, "".join(code), runs))
            runs = True
        elif line.strip():
            prose.append(line)
            if not runs:
                _refuse(path, number, "the comment above belongs over a python block")
            runs = NOT_RUN.fullmatch(line.strip()) is None
            if runs and re.match(r"\s*<!--.*not.?run", line, re.IGNORECASE):
                _refuse(path, number, "write it as <!-- not run: the reason -->")
    if not runs:
        _refuse(path, number, "the comment above belongs over a python block")
    return Page(blocks, "\n".join(prose))


def _refuse(path: Path, line: int, why: str) -> NoReturn:
    raise AssertionError(f"{path.name}:{line}: {why}")


# Running pages.


def run_page(path: Path) -> None:
    namespace = {"__name__": "__main__", "update": copy.deepcopy(UPDATE)}
    with asyncio.Runner() as runner:
        for block in parse(path).blocks:
            if block.language != "python":
                continue
            code = compile(
                "\n" * (block.line - 1) + block.code,  # tracebacks show the page's line
                str(path),
                "exec",
                flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
                dont_inherit=True,
            )
            if not block.runs:
                continue
            answer = eval(code, namespace)  # noqa: S307 - our own pages
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(answer)


@each_page
def test_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page)


@each_page
def test_blocks_say_their_language(page: Path) -> None:
    found = {block.language for block in parse(page).blocks}
    assert found <= LANGUAGES


def page_of(directory: Path, text: str) -> Path:
    page = directory / "page.md"
    page.write_text(textwrap.dedent(text), encoding="utf-8")
    return page


def test_runner_awaits_and_keeps_names_and_loop(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        """
        ```python
        import asyncio
        seen, loop = [update["message"]["chat"]["id"]], asyncio.get_running_loop()
        await asyncio.sleep(0)
        ```
        1. an item

           ~~~~python
           async with asyncio.timeout(1):
               seen.append(asyncio.get_running_loop() is loop)
               seen.append('''
           ~~~
           ''')
           ~~~~
        ```python
        raise LookupError(seen)
        ```
        """,
    )
    with pytest.raises(LookupError) as caught:
        run_page(page)
    assert caught.value.args == ([42, True, "\n~~~\n"],)


def test_runner_reports_the_line_of_the_page(tmp_path: Path) -> None:
    page = page_of(tmp_path, "text\n\n```python\nimport sys\nassert sys is None\n```\n")
    with pytest.raises(AssertionError) as caught:
        run_page(page)
    last = caught.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (page, 5)


def test_runner_compiles_what_it_does_not_run(tmp_path: Path) -> None:
    comment = "<!-- not run: needs a network -->\n"
    run_page(page_of(tmp_path, comment + "```python\nraise SystemExit\n```\n"))
    with pytest.raises(SyntaxError):
        run_page(page_of(tmp_path, comment + "```python\nraise raise\n```\n"))
    # It is for one block only.
    twice = comment + "```python\n0\n```\n\n```python\nraise LookupError\n```\n"
    with pytest.raises(LookupError):
        run_page(page_of(tmp_path, twice))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- not run: why -->\nprose\n", "page.md:2: the comment above belongs over"),
        ("<!-- not run: why -->\n", "page.md:1: the comment above belongs over"),
        ("<!-- not run: why -->\n```sh\nls\n```\n", "page.md:2: only python blocks"),
        ("<!-- not run -->\n```python\n0\n```\n", "page.md:1: write it as"),
        ("<!-- Not-run: why -->\n```python\n0\n```\n", "page.md:1: write it as"),
        ("\n```python\n0\n``\n", "page.md:2: this block has no end"),
    ],
)
def test_runner_refuses_a_page_it_cannot_follow(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(said)):
        parse(page_of(tmp_path, text))


def test_runner_fails_for_a_page_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"page\.md is missing"):
        run_page(tmp_path / "page.md")


# What is public.


def named_in(path: Path) -> set[str]:
    """Return the words of a page that are set as code."""
    page = parse(path)
    code = [block.code for block in page.blocks]
    code += re.findall(r"`([^`]+)`", page.prose)
    return set(re.findall(r"\w+", " ".join(code)))


def names_of(program: Path) -> set[str]:
    with tokenize.open(program) as file:
        tokens = tokenize.generate_tokens(file.readline)
        return {token.string for token in tokens if token.type == tokenize.NAME}


def test_each_public_name_is_in_a_page_or_an_example() -> None:
    examples = sorted((ROOT / "examples").rglob("*.py"))
    named = set().union(*map(named_in, PAGES), *map(names_of, examples))
    assert [name for name in bs.__all__ if name not in named] == []


@pytest.mark.parametrize("name", [name for name in bs.__all__ if name != "__version__"])
def test_each_public_name_has_a_docstring(name: str) -> None:
    said = getattr(bs, name).__doc__
    # Python gives a NamedTuple and a dataclass without one their signature.
    assert said
    assert not said.startswith(f"{name}(")


# Links.

LINKS = re.compile(
    r"""
    \]\( <?([^)>\s]+)>? (?:\s+["'][^)]*)? \)  # [text](target "title")
    | ^\s{0,3}\[[^\]]+\]:\s+<?([^>\s]+)       # [label]: target
    | (?:href|src)=["']([^"']+)["']
    """,
    re.VERBOSE | re.MULTILINE,
)


def links(path: Path) -> list[str]:
    text = re.sub(r"`[^`\n]*`", "", parse(path).prose)
    return ["".join(found) for found in LINKS.findall(text)]


def anchors(path: Path) -> set[str]:
    """Return what # may lead to: headings, named as the usual viewers name them."""
    prose = parse(path).prose
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)?$", prose, re.MULTILINE):
        kept = re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", heading.lower()))
        anchor = kept.strip().replace(" ", "-")
        same = sum(re.fullmatch(rf"{anchor}(-\d+)?", old) is not None for old in found)
        found.append(f"{anchor}-{same}" if same else anchor)
    return {*found, *re.findall(r"\b(?:id|name)=[\"']([^\"']+)", prose)}


def is_broken(link: str, path: Path, root: Path) -> bool:
    if re.match(r"[a-z][a-z0-9+.-]*:|//", link, re.IGNORECASE):
        return False  # not ours to keep
    name, _, anchor = link.partition("#")
    target = (path.parent / name).resolve() if name else path
    if name.startswith("/") or not target.is_relative_to(root) or not target.exists():
        return True
    return anchor != "" and (target.suffix != ".md" or anchor not in anchors(target))


def broken(path: Path, root: Path = ROOT) -> list[str]:
    return [link for link in links(path) if is_broken(link, path, root)]


def test_each_test_that_is_named_as_proof_is_there() -> None:
    named: list[tuple[str, str]] = []
    for page in ("guarantees.md", "security.md"):
        text = (ROOT / "docs" / page).read_text()
        found = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
        assert len(found) > 5
        named += found
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not re.search(rf"def {name}\(", (ROOT / path).read_text())
    ]
    assert missing == []


@each_markdown
def test_each_link_leads_to_something(page: Path) -> None:
    assert broken(page) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = page_of(
        tmp_path,
        """
        # Some `code`, twice
        # Some code twice
        [good](page.md) [good](#some-code-twice-1 "title")
        [good](page.md#some-code-twice)
        [good](https://example.com/x) <a href="mailto:a@example.com">good</a>
        `[code](nowhere)`
        ```text
        [code](nowhere)
        ```
        [bad](none.md) ![bad](none.png) [bad](#none) [bad](page.md#none) [bad][ref]
        <a href="none.html">bad</a> [bad](/page.md) [bad](../out.md)

        [ref]: none/
        """,
    )
    (tmp_path.parent / "out.md").touch()
    assert sorted(broken(page, tmp_path)) == [
        "#none",
        "../out.md",
        "/page.md",
        "none.html",
        "none.md",
        "none.png",
        "none/",
        "page.md#none",
    ]


# The changelog.

SECTIONS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
RELEASE = re.compile(r"\[(\d+)\.(\d+)\.(\d+)\] - (\d{4}-\d\d-\d\d)(?: \[YANKED\])?")


def check_changelog(text: str) -> None:
    head, *releases = re.split(r"^## ", text, flags=re.MULTILINE)
    assert head.startswith("# Changelog\n")
    assert "keepachangelog.com" in head
    titles = [release.partition("\n")[0] for release in releases]
    assert titles[:1] == ["[Unreleased]"]
    found = [RELEASE.fullmatch(title) for title in titles[1:]]
    assert None not in found, titles
    numbers = [tuple(map(int, match.groups()[:3])) for match in found if match]
    dates = [dt.date.fromisoformat(match[4]) for match in found if match]
    assert numbers == sorted(set(numbers), reverse=True)
    assert dates == sorted(dates, reverse=True)
    for release in releases:
        title, *sections = re.split(r"^### ", release, flags=re.MULTILINE)
        names = [section.partition("\n")[0] for section in sections]
        assert set(names) <= SECTIONS, (title, names)
        assert len(set(names)) == len(names), (title, names)
        for section in sections:
            lines = section.partition("\n")[2].strip().splitlines()
            assert lines, (title, section)
            assert all(re.match(r"- \S|  |$", line) for line in lines), (title, section)


def test_changelog_keeps_its_form() -> None:
    check_changelog(read(CHANGELOG))


CHANGES = """# Changelog

As in [Keep a Changelog](https://keepachangelog.com).

## [Unreleased]

### Added

- A thing, told
  in two lines.

## [1.10.0] - 2026-02-01

## [1.9.0] - 2026-01-01

### Fixed

- A thing.
"""


@pytest.mark.parametrize(
    ("was", "instead"),
    [
        ("## [Unreleased]\n", ""),
        ("[Unreleased]", "Unreleased"),
        ("### Added", "### New"),
        ("### Fixed", "### Fixed\n\n- It.\n\n### Fixed"),
        ("- A thing.\n", ""),
        ("- A thing.", "A thing."),
        ("[1.9.0] -", "[1.9.0]"),
        ("2026-01-01", "2026-01-32"),
        ("2026-01-01", "2026-03-01"),
        ("[1.9.0]", "[1.11.0]"),
        ("[1.9.0]", "[1.10.0]"),
        ("keepachangelog", "example"),
    ],
)
def test_changelog_of_another_form_is_refused(was: str, instead: str) -> None:
    check_changelog(CHANGES)
    with pytest.raises((AssertionError, ValueError)):
        check_changelog(CHANGES.replace(was, instead))


# The first example.


def test_quickstart_counts_on_where_it_was(tmp_path: Path) -> None:
    said = [
        subprocess.run(
            [sys.executable, ROOT / "examples" / "quickstart.py"],
            cwd=tmp_path,
            # The package that is under test here, wherever the child runs.
            env={**os.environ, "PYTHONPATH": str(Path(bs.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=True,
        )
        for _ in range(2)
    ]
    assert [child.stdout for child in said] == [
        "chat=1111/user=1111 was seen 1 times\n",
        "chat=1111/user=1111 was seen 2 times\n",
    ]
    assert [child.stderr for child in said] == ["", ""]
    assert (tmp_path / "sessions.db").is_file()
