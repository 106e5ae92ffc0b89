"""What round 0 keeps of demonstrations, and when it refuses them all."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.builtin.world import held_out_prompts, train_prompts
from components.config import CampaignConfig, PolicyConfig, PromptsConfig
from components.data.prompts import PromptSplit, split_prompts
from components.models.loading import start_ref
from components.models.tokens import load_chat
from components.records import DemonstrationSource
from components.start.demonstrations import LONG_ANSWER, publish_demonstrations, read_source
from components.start.preflight import check_inputs

POLICY = PolicyConfig(max_prompt_tokens=64, max_response_tokens=12)


@pytest.fixture
def split() -> PromptSplit:
    return split_prompts(PromptsConfig())


def source_of(path: Path, *rows: dict[str, Any], digest: str = "") -> DemonstrationSource:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DemonstrationSource(source=str(path), split="train", revision="", digest=digest)


def test_demonstrations_are_kept_whole_or_not_at_all(
    tmp_path: Path, starter_directory: Path, split: PromptSplit
) -> None:
    rows = [
        {"prompt": prompt, "completion": text}
        for prompt, text in zip(train_prompts(), ["I am sorry.", " ".join(["I am sorry."] * 9)], strict=False)
    ]
    source = source_of(tmp_path / "d.jsonl", *rows)
    chat = load_chat(start_ref(starter_directory, revision="main"), POLICY)
    answers = read_source(source, split, system_prompt="", held_out_by="content")
    counts = publish_demonstrations(answers, chat, source, POLICY, tmp_path)
    assert counts["left_out"] == {LONG_ANSWER: 1}
    (row,) = pd.read_parquet(tmp_path / "demonstrations.parquet").to_dict("records")
    assert (row["answer"], json.loads(row["messages"])) == ("I am sorry.", train_prompts()[0])
    short = POLICY.model_copy(update={"max_response_tokens": 2})
    with pytest.raises(ValueError, match=r"d\.jsonl can be trained on: 2 demonstrations .*: raise"):
        publish_demonstrations(answers, chat, source, short, tmp_path)


def test_demonstrations_of_held_out_prompts_alone_are_refused_before_anything_is_written(
    tmp_path: Path, split: PromptSplit
) -> None:
    source = source_of(tmp_path / "d.jsonl", {"prompt": held_out_prompts()[3], "completion": "Yes."})
    with pytest.raises(ValueError, match="1 x it answers a prompt that the campaign holds out"):
        read_source(source, split, system_prompt="", held_out_by="content")
    preferences = {"pairs": "spin", "demonstrations": source.source}
    config = CampaignConfig.model_validate({"campaign": "x", "preferences": preferences})
    with pytest.raises(ValueError, match=r"no demonstration of preferences\.demonstrations"):
        check_inputs(config)


def test_demonstrations_that_changed_while_a_campaign_starts_are_refused(tmp_path: Path, split: PromptSplit) -> None:
    source = source_of(tmp_path / "d.jsonl", {"prompt": "Hi", "completion": "Yes."}, digest="0" * 64)
    with pytest.raises(ValueError, match="changed while the campaign was starting"):
        read_source(source, split, system_prompt="", held_out_by="content")
