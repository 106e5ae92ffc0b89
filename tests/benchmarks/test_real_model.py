"""The inputs and tables of `make real`."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from components.config import RewardModelConfig, load_section
from components.data.prompts import content_key
from components.data.transcripts import parse_transcript

HERE = Path(__file__).parent
REWARDS = HERE.parents[1] / "conf" / "reward_models"


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The modules of the recipe, which are scripts beside each other."""
    monkeypatch.syspath_prepend(str(HERE))
    yield {name: importlib.import_module(f"real.{name}") for name in ("inputs", "audit", "figures")}
    for name in [name for name in sys.modules if name.split(".")[0] == "real"]:
        del sys.modules[name]


@pytest.mark.parametrize("path", sorted(REWARDS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_reward_model_section_changes_something_and_loads(path: Path) -> None:
    assert load_section(path, RewardModelConfig) != RewardModelConfig()


def test_halves_share_no_first_turn_and_keep_dialogues_together(real: dict[str, ModuleType], tmp_path: Path) -> None:
    rows = []
    for number in range(60):
        first = f"\n\nHuman: question {number // 2}"
        middle = "\n\nAssistant: yes\n\nHuman: and then?" if number % 2 else ""
        rows.append({side: f"{first}{middle}\n\nAssistant: {side} {number}" for side in ("chosen", "rejected")})
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    files = real["inputs"].write_inputs(
        str(source), tmp_path / "out", split="train", limit=60, num_held_out=5, num_audit=99
    )
    halves = [[json.loads(line) for line in path.read_text().splitlines()] for path in files.pairs]
    firsts = [{content_key(row["prompt"][:1]) for row in half} for half in halves]
    assert len(halves[0]) + len(halves[1]) == 60
    assert min(map(len, halves)) > 10
    assert not firsts[0] & firsts[1]
    prompts, held_out, audit = (
        [content_key(json.loads(line)["prompt"]) for line in path.read_text().splitlines()]
        for path in (files.prompts, files.held_out, files.audit)
    )
    assert set(prompts) == firsts[0]
    assert len(held_out) == 5
    assert {*held_out, *audit} == firsts[1]
    assert not set(held_out) & set(audit)
    again = real["inputs"].write_inputs(
        str(source), tmp_path / "again", split="train", limit=60, num_held_out=5, num_audit=3
    )
    assert again.pairs[0].read_bytes() == files.pairs[0].read_bytes()
    assert len(again.audit.read_text().splitlines()) == 3
    assert parse_transcript(rows[0]["chosen"], "row 1")[-1]["content"] == "chosen 0"


def test_head_to_head_counts_only_prompts_that_both_answered_with_a_score(real: dict[str, ModuleType]) -> None:
    answers = real["audit"].ModelAnswers
    one = answers(np.array([2.0, 1.0, np.nan, 3.0]), np.array([0.0, 1.0, 1.0, 1.0]), np.array([5, 5, 5, 5]))
    other = answers(np.array([1.0, 1.0, 1.0, np.nan]), np.array([1.0, 1.0, 0.0, np.nan]), np.array([5, 5, 5, 5]))
    compared = real["audit"].head_to_head(one, other)
    assert (compared.rate.value, compared.rate.n) == (0.75, 2)
    assert compared.length_controlled.value == pytest.approx(0.75, abs=0.01)
    assert (compared.training_judge.value, compared.training_judge.n) == (0.5, 3)


def test_tables_and_plot_have_every_seed(real: dict[str, ModuleType], tmp_path: Path) -> None:
    interval = {"value": 0.625, "low": 0.5, "high": 0.75, "n": 100}
    record = {
        "round": 1,
        "num_pairs": 128,
        "win_rate_vs_champion": interval,
        "win_rate_vs_start": interval,
        "kl_to_start": 3.21,
        "mean_tokens": 80.4,
        "promoted": True,
    }
    figures = real["figures"]
    measured = dict.fromkeys(figures.MEASURES, interval)
    judge = {
        "training": {"num_train_pairs": 400, "held_out": {"accuracy": interval}},
        "people": {"quality": {"accuracy": interval, "num_pairs": 536}},
    }
    result = {
        "campaigns": {"rounds": {"rounds": [record]}, "offline": {"rounds": [record | {"promoted": False}]}},
        "audit": dict.fromkeys(figures.SHOWN, measured),
        "mean_tokens": {"start": 99.6, "round 1": 88.4, "round 2": 80, "round 3": 70, "offline": 60},
    }
    summary = {
        "judges": {"judge": judge, "evaluation_judge": judge},
        "seeds": [{"seed": 1} | result, {"seed": 2} | result],
        "seconds": {"all": 90.0},
    }
    text = figures.as_markdown(summary)
    assert "| evaluation judge | 400 | 0.625 (0.500–0.750) | 0.625 (0.500–0.750) of 536 |" in text
    assert text.count("| offline DPO | 128 | 0.625 (0.500–0.750) | 0.625 (0.500–0.750) | 3.2 | 80 | refused |") == 2
    assert text.count("| round 3 against round 1 |") == 2
    assert "| 88 and 100 |" in text
    assert "| all | 1.5 |" in text
    figures.plot_win_rates(summary, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
