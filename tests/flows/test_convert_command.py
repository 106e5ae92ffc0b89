"""`ratchet convert` as a user runs it: what it prints, what it writes, and what it refuses in one line."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from components.data.forms.registry import FORMS
from components.data.preference_file import load_seed_pairs
from flows.cli import app

HH = {name: f"\n\nHuman: Hi\n\nAssistant: {text}" for name, text in (("chosen", "Hello!"), ("rejected", "What?"))}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.chdir(tmp_path)
    rows = [HH, {**HH, "p": 0.8, "margin": 1.0, "topic": "greeting"}, {**HH, "margin": 0.0}]
    Path("hh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def ratchet(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["convert", *arguments])


def test_convert_prints_both_forms_the_counts_and_what_is_not_held() -> None:
    result = ratchet("hh.jsonl", "pairs.jsonl.zst", "--to", "trl")
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "form      hh (HH transcripts: `Human:` and `Assistant:` turns in chosen and rejected)",
        "to        trl (TRL: chat messages in prompt, chosen and rejected)",
        "pairs     3 read from 3 rows, 2 written as 2 rows",
        "skipped   a tie (1 pair), which trl does not hold",
        "not held  margin (1 pair); p (1 pair)",
        "columns   topic: not written",
        "written   pairs.jsonl.zst",
    ]
    assert len(load_seed_pairs("pairs.jsonl.zst", split="train").pairs) == 2


def test_convert_names_a_column_without_a_name() -> None:
    """pandas writes its row numbers so."""
    Path("pandas.csv").write_text(",prompt,chosen,rejected\n0,a,b,c\n")
    assert "columns   one without a name: not written" in ratchet("pandas.csv", "out.jsonl", "--to", "trl").output


def test_convert_names_what_a_form_never_reads() -> None:
    completions = [{"response": name, "fine-grained_score": score} for name, score in (("a", 1.0), ("b", 2.0))]
    Path("uf.json").write_text(json.dumps([{"instruction": "Hi", "completions": completions}] * 2))
    result = ratchet("uf.json", "pairs.csv", "--to", "kto", "--pairs", "all_pairs")
    assert result.exit_code == 0, result.output
    assert "form      ultrafeedback (" in result.output
    assert "pairs     2 read from 2 rows, 2 written as 4 rows" in result.output
    assert "not read  the completions' models, principles, custom_system_prompt, critiques" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("missing.jsonl", "out.jsonl", "--to", "trl"),
            "missing.jsonl does not exist: name a JSONL, CSV or Parquet file",
        ),
        (
            ("hh.jsonl", "out.txt", "--to", "trl"),
            "out.txt is not a kind of file that can be written: use .parquet, or .jsonl",
        ),
        (("hh.jsonl", "out.jsonl", "--to", "dpo"), "dpo is not a form: use one of"),
        (("hh.jsonl", "out.jsonl", "--to", "openai", "--from", "openai"), "hh.jsonl line 1: input must be an object"),
        (("hh.jsonl", "out.jsonl", "--to", "helpsteer3"), "hh.jsonl line 1 has no margin, which the form helpsteer3"),
    ],
)
def test_convert_refuses_bad_input_in_one_line_with_exit_code_2(arguments: tuple[str, ...], says: str) -> None:
    result = ratchet(*arguments)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert line.startswith("ratchet: ")
    assert says in line
    assert [path.name for path in Path.cwd().iterdir()] == ["hh.jsonl"]


def test_convert_skips_pairs_that_do_not_fit_if_asked() -> None:
    result = ratchet("hh.jsonl", "out.json", "--to", "helpsteer3", "--unfit", "skip")
    assert result.exit_code == 0, result.output
    assert "skipped   no margin (1 pair), which helpsteer3 does not hold" in result.output


def test_convert_s_help_names_every_form() -> None:
    (parameter,) = [each for each in _command().params if each.name == "to"]
    assert all(name in str(parameter.help) for name in FORMS)


def _command():  # type: ignore[no-untyped-def]
    import typer

    return typer.main.get_command(app).commands["convert"]  # type: ignore[attr-defined]
