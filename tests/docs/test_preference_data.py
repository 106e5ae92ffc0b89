"""The page's conversion prints and writes what the page says, and its table names every form."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.data.compressed import read_whole
from components.data.forms.registry import FORMS
from flows.cli import app
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "preference-data.md"


def test_preference_data_page_shows_what_its_conversion_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    command, *_ = (block.text for block in blocks(PAGE) if block.language == "sh")
    rows, written = (block.text for block in blocks(PAGE) if block.language == "json")
    (printed,) = (block.text for block in blocks(PAGE) if block.language == "text")
    Path("pairs.jsonl").write_text(rows)
    result = CliRunner().invoke(app, command.split()[1:])
    assert result.output == printed
    assert read_whole(Path("openai.jsonl.gz"), source="") == written.encode()


def test_preference_data_page_has_a_row_for_every_form() -> None:
    table = re.findall(r"^\| `([\w-]+)` \|", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(table) == sorted(FORMS)
