"""`ratchet validate`: what it prints and writes, its exit codes, and that it loads no machine-learning library."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli import app

ROOT = Path(__file__).parents[2]
GOOD = [
    {"prompt": f"Question {n}: what is {n} plus {n}?", "chosen": f"It is {2 * n}.", "rejected": f"Maybe {n}?"}
    for n in range(12)
]
MAIL = "jo.bloggs" + "@mail-host.org"


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["validate", *map(str, arguments)], env={"COLUMNS": "200"})
    return result.exit_code, result.output


def test_validate_of_good_pairs_ends_with_zero_and_writes_nothing(tmp_path: Path) -> None:
    code, output = run(write(tmp_path / "pairs.jsonl", GOOD))
    assert code == 0
    assert "0 of 12 rows are rejected" in output
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.jsonl"]


def test_validate_of_a_failed_check_ends_with_three_and_shows_a_masked_example(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [*GOOD, {**GOOD[0], "prompt": f"Is {MAIL} yours?<|im_end|>"}])
    code, output = run(pairs, "--report", tmp_path / "out")
    assert code == 3
    assert f"special_tokens: {pairs} line 13: special token or template mark" in output
    assert MAIL not in output
    assert "[e-mail address]" in output
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"validation.json", "quarantine.parquet", "report.html"}
    assert MAIL not in (tmp_path / "out" / "report.html").read_text()
    assert "pairs.jsonl  checks" in (tmp_path / "out.log").read_text()


def test_validate_finds_held_out_prompts(tmp_path: Path) -> None:
    held_out = write(tmp_path / "held.jsonl", [{"prompt": "question 3: WHAT is 3 plus 3?"}])
    code, output = run(write(tmp_path / "pairs.jsonl", GOOD), "--held-out", held_out)
    assert code == 3
    assert "line 4: the prompt is held out" in output


def test_validate_takes_limits_from_a_campaigns_file(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", [*GOOD, {**GOOD[0], "chosen": "Done.<|im_end|>"}])
    config = tmp_path / "campaign.yaml"
    config.write_text("campaign: a\nchecks: {special_tokens: {max_share: 0.2}, length_bias: {on_breach: off}}\n")
    code, output = run(pairs, "--config", config)
    assert code == 0
    # What the file leaves out is the check's own: its rows are rejected.
    assert "1 of 13 rows are rejected" in output
    assert "switched off" in output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty: name a data set with at least one row"),
        ('{"prompt": "a"}\n', "line 1 has no chosen: a pair needs the columns chosen and rejected"),
        ("{broken\n", "line 1 is not valid JSON"),
        ('{"prompt": "a", "response": "b", "helpfulness": 1}\n', "is a pair of answers to a prompt; 1 rows: a prompt"),
    ],
)
def test_validate_of_bad_input_ends_with_two_and_one_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(content)
    code, output = run(path)
    assert code == 2
    assert message in output
    assert "Traceback" not in output


def test_validate_reads_other_forms_and_reports_by_their_rows(tmp_path: Path) -> None:
    def response(prompt: str, text: str, helpfulness: int) -> dict[str, object]:
        return {"prompt": prompt, "response": text, "helpfulness": helpfulness}

    rows = [response(f"Question {n}?", f"Answer {n} {side}.", side) for n in range(9) for side in (0, 1)]
    rows += [response("Alone?", "Yes.", 3), response(f"Is {MAIL} yours?<|im_end|>", "No.", 1)]
    rows += [response(f"Is {MAIL} yours?<|im_end|>", "Yes.", 2)]
    pairs = write(tmp_path / "rated.jsonl", rows)
    code, output = run(pairs, "--report", tmp_path / "out", "--held-out", pairs)
    assert code == 3
    assert "form     helpsteer2: 10 pairs" in output
    assert "no pair  1 rows: a prompt with one response" in output
    assert f"special_tokens: {pairs} line 20: special token or template mark" in output
    assert "leakage" in output
    assert MAIL not in output
    kept = pq.read_table(tmp_path / "out" / "quarantine.parquet").to_pylist()
    assert [row["row"] for row in kept] == [*range(18), 19, 20], "a pair is rejected with both of its rows"
    assert json.loads(kept[-1]["content"]) == rows[-1]
    written = json.loads((tmp_path / "out" / "validation.json").read_text())
    assert (written["form"], written["left_out"]) == ("helpsteer2", {"a prompt with one response": 1})


def test_validate_of_a_missing_file_or_a_wrong_limit_ends_with_two(tmp_path: Path) -> None:
    assert run(tmp_path / "nowhere.jsonl")[0] == 2
    config = tmp_path / "campaign.yaml"
    config.write_text("campaign: a\nchecks: {secrets: {max_share: 2}}\n")
    code, output = run(write(tmp_path / "pairs.jsonl", GOOD), "--config", config)
    assert code == 2
    assert "checks.secrets.max_share = 2" in output


def test_validate_loads_no_machine_learning_library(tmp_path: Path) -> None:
    pairs = write(tmp_path / "pairs.jsonl", GOOD)
    code = (
        "import sys; from flows.cli import main; sys.argv = ['ratchet', 'validate', sys.argv[1]]\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'mlflow', 'pandas') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(pairs)], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ran.stdout.splitlines()[-1] == "[]"
