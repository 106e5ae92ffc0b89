"""`ratchet reward-model`: what it prints, and what it refuses in one line before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.artifacts import publishing
from components.campaign.lock import writing
from components.config import RewardModelConfig
from flows.cli import app

GOOD = [
    {"prompt": f"order number {n}", "chosen": "thank you", "rejected": f"no {n}", "tag": "style"} for n in range(20)
]


def settings(place: Path, **values: object) -> Path:
    """The YAML file that `--config` names; JSON is YAML."""
    path = place / "reward-model.yaml"
    path.write_text(json.dumps(values))
    return path


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def missing_pairs(place: Path, starter: Path) -> list[str]:
    return [str(place / "nowhere.jsonl"), "--base", str(starter)]


def missing_base(place: Path, starter: Path) -> list[str]:
    return [str(write(place / "p.jsonl", GOOD)), "--base", str(place / "nowhere")]


def base_that_is_no_language_model(place: Path, starter: Path) -> list[str]:
    model = place / "model"
    model.mkdir()
    for file in starter.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    settings = json.loads((model / "config.json").read_text()) | {"architectures": ["BertForMaskedLM"]}
    (model / "config.json").write_text(json.dumps(settings))
    return [str(write(place / "p.jsonl", GOOD)), "--base", str(model)]


def pairs_that_are_all_equal(place: Path, starter: Path) -> list[str]:
    return [str(write(place / "p.jsonl", [{"prompt": "a", "chosen": "x", "rejected": "x"}])), "--base", str(starter)]


def pairs_that_are_all_too_long(place: Path, starter: Path) -> list[str]:
    return [str(write(place / "p.jsonl", GOOD)), "--base", str(starter), "--config", str(settings(place, max_tokens=3))]


def setting_out_of_range(place: Path, starter: Path) -> list[str]:
    return [str(write(place / "p.jsonl", GOOD)), "--base", str(starter), "--config", str(settings(place, epochs=0))]


def out_that_is_a_file(place: Path, starter: Path) -> list[str]:
    (place / "out").write_text("mine")
    return [str(write(place / "p.jsonl", GOOD)), "--base", str(starter)]


def out_that_holds_something_else(place: Path, starter: Path) -> list[str]:
    (place / "out" / "reward_model").mkdir(parents=True)
    (place / "out" / "reward_model" / "thesis.txt").write_text("mine")
    return [str(write(place / "p.jsonl", GOOD)), "--base", str(starter)]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (missing_pairs, "does not exist"),
        (missing_base, "nowhere does not exist"),
        (base_that_is_no_language_model, "is not a language model (BertForMaskedLM)"),
        (pairs_that_are_all_equal, "no pair can be used: 1 rows (1 x chosen equals rejected)"),
        (pairs_that_are_all_too_long, "20 x longer than 3 tokens"),
        (setting_out_of_range, "epochs = 0"),
        (out_that_is_a_file, "is a file: name a folder"),
        (out_that_holds_something_else, "was not made by this command"),
    ],
)
def test_reward_model_command_refuses_bad_input_in_one_line(
    case: Callable[[Path, Path], list[str]], told: str, tmp_path: Path, starter_directory: Path
) -> None:
    arguments = case(tmp_path, starter_directory)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["reward-model", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert result.stderr.startswith("ratchet: ")
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_reward_model_command_says_how_good_it_is_and_how_to_judge_with_it(
    tmp_path: Path, starter_directory: Path
) -> None:
    pairs = write(tmp_path / "p.jsonl", [*GOOD, {"prompt": "x", "chosen": "same", "rejected": "same"}])
    asked = [
        "reward-model",
        str(pairs),
        "--base",
        str(starter_directory),
        "--out",
        str(tmp_path / "out"),
        "--config",
        str(settings(tmp_path, eval_share=0.3, dtype="float32")),
    ]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "trained on 14 pairs; on pairs of other prompts:" in lines
    assert [line.split()[:2] for line in lines if line.startswith(("all ", "style "))] == [["all", "6"], ["style", "6"]]
    assert "left out: 1 x chosen equals rejected" in lines
    assert f"judge: {{kind: reward_model, model: {tmp_path}/out/reward_model}}" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["reward_model", "reward_model.log"]


def test_reward_model_command_beside_another_on_its_folder_is_refused_and_deletes_nothing(
    tmp_path: Path, starter_directory: Path
) -> None:
    """The second one deleted the workspace of the first, which ended with FileNotFoundError after hours."""
    pairs = write(tmp_path / "p.jsonl", GOOD)
    out = tmp_path / "out"
    asked = ["reward-model", str(pairs), "--base", str(starter_directory), "--out", str(out)]
    with (
        writing(out, command="ratchet reward-model"),
        publishing(out / "reward_model", stage="reward_model", version=1, key="k") as running,
    ):
        result = CliRunner().invoke(app, asked)
        assert running.path.is_dir()
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"ratchet: {out} is being written by another process (pid ")
    assert "command ratchet reward-model" in line


def test_reward_model_reference_lists_every_key_of_the_config() -> None:
    reference = CliRunner().invoke(app, ["reference"]).output.partition("A reward model")[2]
    for name, field in RewardModelConfig.model_fields.items():
        assert f"| `{name}` |" in reference, (name, field)


def test_reward_model_misspelt_key_is_named_with_the_nearest(tmp_path: Path) -> None:
    asked = ["reward-model", "p.jsonl", "--base", "b", "--out", str(tmp_path / "out"), "--config"]
    result = CliRunner().invoke(app, [*asked, str(settings(tmp_path, learning_rat=1e-4))])
    assert result.exit_code == 2, result.output
    assert "unknown key learning_rat; did you mean learning_rate?" in result.stderr
