"""Read the project's Markdown pages: headings, links and code blocks, and what is wrong with them."""

import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import typer
import yaml

from components.config import load_config, load_study, load_sweep
from components.config.shipped import conf_path
from flows.cli import app

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r" *(?P<marks>```+)(?P<word>\S*)")
LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)|(?:src|href)=\"(?P<attribute>[^\"]+)\"")
EXTERNAL = ("http://", "https://", "mailto:")
LANGUAGES = {"sh", "yaml", "python", "mermaid", "text", "json"}
"""Words of code blocks: an unknown one (`bash`, `yml`) would slip past the checks of its content."""
SEPARATORS = {"&&", "||", ";", "|", "&"}


class Block(NamedTuple):
    """A fenced code block: the number of its first line within the page, its language and its text."""

    line: int
    language: str
    text: str


def pages() -> list[Path]:
    """Return every page that people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """Return the code blocks of a page.

    Raises:
        ValueError: A block is never closed.
    """
    found: list[Block] = []
    opened: tuple[int, str, str] | None = None
    lines: list[str] = []
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened, lines = (number + 1, fence["marks"], fence["word"]), []
        elif opened is not None and line.strip() == opened[1]:
            found.append(Block(opened[0], opened[2], "\n".join(lines) + "\n"))
            opened = None
        elif opened is not None:
            lines.append(line)
    if opened is not None:
        raise ValueError(f"{page.name}:{opened[0]}: a code block is never closed")
    return found


def prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a page outside code blocks."""
    inside = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if FENCE.match(line):
            inside = not inside
        elif not inside:
            yield number, line


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    seen: Counter[str] = Counter()
    names = set()
    for _, line in prose(page):
        heading = re.match(r"#{1,6} (.*)", line)
        if heading:
            text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            name = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
            names.add(f"{name}-{seen[name]}" if seen[name] else name)
            seen[name] += 1
    return names


def broken_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to a file or an anchor that does not exist."""
    faults = []
    for number, line in prose(page):
        for match in LINK.finditer(re.sub(r"`[^`]*`", "code", line)):
            target = match["target"] or match["attribute"]
            if target.startswith(EXTERNAL):
                continue
            name, _, anchor = target.partition("#")
            file = page.parent / name if name else page
            if not file.exists():
                faults.append(f"{page.name}:{number}: {target} does not exist")
            elif anchor and anchor not in anchors(file):
                faults.append(f"{page.name}:{number}: {target} has no such heading")
    return faults


def unknown_languages(page: Path) -> list[str]:
    """Return the code blocks whose language no check knows."""
    unknown = [block for block in blocks(page) if block.language not in LANGUAGES]
    return [f"{page.name}:{block.line}: {block.language!r}" for block in unknown]


def broken_configurations(page: Path, workspace: Path) -> list[str]:
    """Return the YAML blocks that are no campaign, which may leave `campaign` out, no study and no sweep.

    Studies lie beside the one that ships.
    """
    faults = []
    file = workspace / "studies" / "block.yaml"
    file.parent.mkdir()
    shutil.copy(conf_path("demo.yaml"), workspace)
    for block in blocks(page):
        if block.language == "yaml":
            file.write_text(block.text, encoding="utf-8")
            try:
                named = yaml.safe_load(block.text) or {}
                if "study" in named:
                    load_study(file)
                elif "sweep" in named:
                    load_sweep(file)
                else:
                    load_config(file, {} if "campaign" in named else {"campaign": "page"})
            except (ValueError, yaml.YAMLError) as error:
                faults.append(f"{page.name}:{block.line}: {error}")
    return faults


def broken_commands(page: Path) -> list[str]:
    """Return the `ratchet` and `make` commands of a page's shell blocks that the real ones would refuse."""
    faults = []
    for block in blocks(page):
        if block.language == "sh":
            for number, words in _commands(block):
                program, arguments = Path(words[0]).name, words[1:]
                fault = {"ratchet": _ratchet_fault, "make": _make_fault}.get(program, lambda _: None)(arguments)
                if fault is not None:
                    faults.append(f"{page.name}:{number}: {' '.join(words)}: {fault}")
    return faults


def ratchet_commands(page: Path) -> list[str]:
    """Return the names of the `ratchet` commands in a page's shell blocks."""
    commands = [words for block in blocks(page) if block.language == "sh" for _, words in _commands(block)]
    return [words[1] for words in commands if Path(words[0]).name == "ratchet" and len(words) > 1]


def _commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Yield the simple commands of a shell block with the numbers of their lines, without assignments before them."""
    lines = block.text.replace("\\\n", " \x00").splitlines()
    number = block.line
    document: str | None = None
    for line in lines:
        begins = number
        number += 1 + line.count("\x00")
        if document is not None:
            document = None if line.strip() == document else document
            continue
        lexer = shlex.shlex(line.replace("\x00", ""), posix=True, punctuation_chars=";&|")
        lexer.whitespace_split, lexer.commenters = True, "#"
        here = re.search(r"<<-?\s*['\"]?(\w+)", line)
        document = here[1] if here else None
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in SEPARATORS:
                words.append(word)
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                yield begins, words
            words = []


def _ratchet_fault(arguments: list[str]) -> str | None:
    """Return why the command line refuses the arguments, or None. Only the command's context is made; nothing runs."""
    group = typer.main.get_command(app)
    try:
        outer = group.make_context("ratchet", list(arguments))
        name, command, rest = group.resolve_command(outer, [*outer._protected_args, *outer.args])  # type: ignore[attr-defined]
        with outer:
            command.make_context(name, rest, parent=outer)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def _make_fault(arguments: list[str]) -> str | None:
    targets = set(re.findall(r"^([a-z][\w.-]*):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    unknown = [word for word in arguments if "=" not in word and word not in targets]
    return f"no target {unknown[0]}" if unknown else None
