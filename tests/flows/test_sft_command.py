"""`ratchet sft`: what it prints, and what it refuses in one line before anything is written."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.artifacts import read_json
from components.config import SftConfig
from flows.cli import app
from tests.sft.conftest import write_demonstrations


def missing_demonstrations(place: Path, starter: Path) -> list[str]:
    return [str(place / "nowhere.jsonl"), "--base", str(starter)]


def missing_base(place: Path, starter: Path) -> list[str]:
    return [str(write_demonstrations(place / "d.jsonl", 40)), "--base", str(place / "nowhere")]


def demonstrations_that_are_all_too_long(place: Path, starter: Path) -> list[str]:
    return [str(write_demonstrations(place / "d.jsonl", 40)), "--base", str(starter), "--set", "max_tokens=3"]


def adapter_on_modules_that_are_not_there(place: Path, starter: Path) -> list[str]:
    lora = "lora={rank: 4, target_modules: nowhere}"
    return [str(write_demonstrations(place / "d.jsonl", 40)), "--base", str(starter), "--set", lora]


def setting_out_of_range(place: Path, starter: Path) -> list[str]:
    return [str(write_demonstrations(place / "d.jsonl", 40)), "--base", str(starter), "--set", "epochs=0"]


def setting_that_is_misspelt(place: Path, starter: Path) -> list[str]:
    return [str(write_demonstrations(place / "d.jsonl", 40)), "--base", str(starter), "--set", "lora.rnak=3"]


def out_that_is_a_file(place: Path, starter: Path) -> list[str]:
    (place / "out").write_text("mine")
    return [str(write_demonstrations(place / "d.jsonl", 40)), "--base", str(starter)]


def out_that_holds_something_else(place: Path, starter: Path) -> list[str]:
    (place / "out" / "sft").mkdir(parents=True)
    (place / "out" / "sft" / "thesis.txt").write_text("mine")
    return [str(write_demonstrations(place / "d.jsonl", 40)), "--base", str(starter)]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        (missing_demonstrations, "does not exist"),
        (missing_base, "nowhere does not exist"),
        (demonstrations_that_are_all_too_long, "40 x the prompt alone fills 3 tokens): raise max_tokens"),
        (adapter_on_modules_that_are_not_there, "lora.target_modules"),
        (setting_out_of_range, "--set: epochs = 0"),
        (setting_that_is_misspelt, "unknown key lora.rnak; did you mean rank?"),
        (out_that_is_a_file, "is a file: name a folder"),
        (out_that_holds_something_else, "was not made by this command"),
    ],
)
def test_sft_command_refuses_bad_input_in_one_line(
    case: Callable[[Path, Path], list[str]], told: str, tmp_path: Path, starter_directory: Path
) -> None:
    arguments = case(tmp_path, starter_directory)
    before = sorted(tmp_path.rglob("*"))
    result = CliRunner().invoke(app, ["sft", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert result.stderr.startswith("ratchet: ")
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_sft_command_says_how_good_it_is_and_how_to_begin_a_campaign(tmp_path: Path, starter_directory: Path) -> None:
    source = write_demonstrations(tmp_path / "d.jsonl", 40)
    with source.open("a") as file:
        file.write(json.dumps({"prompt": "no answer", "completion": " "}) + "\n")
    config = tmp_path / "sft.yaml"
    config.write_text("{dtype: float32, eval_share: 0.3, learning_rate: 0.5}")
    asked = ["sft", str(source), "--base", str(starter_directory), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*asked, "--config", str(config), "--set", "learning_rate=1.0e-3"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    (told,) = [line for line in lines if line.startswith("trained all weights on ")]
    assert told.endswith("on conversations of other prompts:")
    written = read_json(tmp_path / "out/sft/sft.json")
    assert written["settings"]["learning_rate"] == 1e-3
    for name in ("before", "after"):
        label = {"before": "base", "after": "trained"}[name]
        assert any(
            line.split()[:2] == [label, f"{written['held_out'][name]['loss']:.4f}"] for line in lines if line.strip()
        )
    assert "left out: 1 x an assistant turn is empty" in lines
    assert f"policy: {{model: {tmp_path}/out/sft}}" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["sft", "sft.log"]


def test_sft_reference_lists_every_key_of_the_config() -> None:
    reference = CliRunner().invoke(app, ["reference"]).output.partition("Supervised fine-tuning")[2]
    for name in SftConfig.model_fields:
        assert f"`{name}`" in reference, name


def test_sft_rate_of_an_adapter_is_ten_times_that_of_all_weights() -> None:
    assert SftConfig().training.learning_rate == 1e-5
    assert SftConfig.model_validate({"lora": {"rank": 8}}).training.learning_rate == 1e-4
    assert SftConfig.model_validate({"lora": {"rank": 8}, "learning_rate": 1e-3}).learning_rate == 1e-3


def test_reward_model_command_takes_settings_without_a_file(tmp_path: Path) -> None:
    asked = ["reward-model", "p.jsonl", "--base", "b", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*asked, "--set", "learning_rat=1"])
    assert result.exit_code == 2, result.output
    assert "ratchet: --set: unknown key learning_rat; did you mean learning_rate?" in result.stderr
