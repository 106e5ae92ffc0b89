import json
from pathlib import Path
from typing import Any

import pytest

from components.builtin.world import held_out_prompts
from components.config import CampaignConfig
from components.data.prompts import split_prompts
from components.sweep.held_out import halve_held_out


def prompts_in(path: str) -> list[Any]:
    return [json.loads(line)["prompt"] for line in Path(path).read_text().splitlines()]


def test_halves_of_the_builtin_prompts_are_disjoint_and_whole(tmp_path: Path) -> None:
    searched, confirmed = halve_held_out(tmp_path, CampaignConfig(campaign="base"))
    first, second = prompts_in(searched["held_out"]), prompts_in(confirmed["held_out"])
    texts = [{json.dumps(prompt) for prompt in half} for half in (first, second)]
    assert not texts[0] & texts[1]
    assert len(first) == len(second) == len(held_out_prompts()) / 2
    assert "train" not in searched
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert halve_held_out(tmp_path, CampaignConfig(campaign="base")) == (searched, confirmed)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == written


def test_halves_out_of_the_training_prompts_are_never_trained_on(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    rows = [{"prompt": f"Question {number}?", "system": "Be brief.", "level": number} for number in range(40)]
    rows[7]["tools"] = tools
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    config = CampaignConfig.model_validate(
        {
            "campaign": "base",
            "prompts": {"train": str(path), "held_out": "", "num_held_out": 10, "tag_column": "level"},
        }
    )
    halves = halve_held_out(tmp_path / "sweep", config)
    before = split_prompts(config.prompts, carries_columns=True)
    seen = []
    for half in halves:
        prompts = config.prompts.model_copy(update=half)
        after = split_prompts(prompts, carries_columns=True)
        assert after.train == before.train
        assert len(after.held_out) == 5
        seen += list(after.held_out)
    # System messages, tools and columns come through, and the ids, which name what the policy reads.
    by_id = {prompt.prompt_id: prompt for prompt in before.held_out}
    assert {prompt.prompt_id for prompt in seen} == by_id.keys()
    assert all(prompt.columns["level"] == by_id[prompt.prompt_id].columns["level"] for prompt in seen)


def test_halves_need_two_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "One?"}\n{"prompt": "Two?"}\n')
    prompts = {"train": str(path), "held_out": "", "num_held_out": 1}
    config = CampaignConfig.model_validate({"campaign": "base", "prompts": prompts})
    with pytest.raises(ValueError, match="has 1 prompt: a sweep needs two halves"):
        halve_held_out(tmp_path / "sweep", config)
