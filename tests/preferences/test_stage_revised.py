"""The stage with a constitution and its revisions, over real HTTP.

Pairs, counts, and a stop that pays nothing twice.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import file_digest, read_json, read_table, write_table
from components.config import JudgeConfig, PolicyConfig, PreferencesConfig
from components.data.messages import format_messages
from components.data.prompts import make_prompt
from components.judges.registry import judge_digest
from components.preferences.stage import run
from components.records import Artifact, CollectRequest, JudgeRef, ModelRef, RoundStopped
from tests.judges.chat_server import ChatServer, quoted_texts

PROMPTS = [make_prompt([{"role": "user", "content": f"question {number}"}]) for number in range(3)]
NOBODY = ModelRef(round=0, base="nowhere", base_digest="0" * 64, digest="0" * 64)


def scripted(request: dict[str, Any]) -> str:
    """Longer answers keep every principle better, `no` violates each, and a revision says more.

    But question 2's is as it was.
    """
    text = request["messages"][0]["content"]
    conversation, *texts = quoted_texts(request)
    if "You write a better version" in text:
        return json.dumps({"revision": texts[0] if "question 2" in conversation else f"{texts[0]}, with pleasure"})
    if "You criticise" in text:
        return "It could say more."
    if len(texts) == 1:
        return json.dumps({"reason": "as written", "violates": texts[0] == "no"})
    return json.dumps({"reason": "the longer one", "verdict": "A" if len(texts[0]) > len(texts[1]) else "B"})


@pytest.fixture
def collect(tmp_path: Path) -> Callable[..., Path]:
    def collect(server: ChatServer, **limits: Any) -> Path:
        config = JudgeConfig(kind="constitution", endpoint=server.endpoint(**limits))
        prompts = pd.DataFrame(
            [(p.prompt_id, format_messages(p.messages)) for p in PROMPTS], columns=["prompt_id", "messages"]
        )
        rows = [(p.prompt_id, number, text) for p in PROMPTS for number, text in enumerate(("a good answer", "no"))]
        tables = {"prompts": prompts, "responses": pd.DataFrame(rows, columns=["prompt_id", "sample_id", "text"])}
        artifacts = {}
        for name, table in tables.items():
            write_table(tmp_path / f"{name}.parquet", table)
            artifacts[name] = Artifact(
                path=tmp_path / f"{name}.parquet", digest=file_digest(tmp_path / f"{name}.parquet")
            )
        request = CollectRequest(
            **artifacts,
            seed_pairs_digest=None,
            judge=JudgeRef(config=config, digest=judge_digest(config)),
            preferences=PreferencesConfig(pairs="revised", tag="principles"),
            policy=NOBODY,
            start=NOBODY,
            limits=PolicyConfig(),
            seed=5,
        )
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        run(request, out)
        return out

    return collect


def test_collect_revised_pairs_the_worst_response_with_its_revision_and_counts_the_rest(
    chat_server: Callable[..., ChatServer], collect: Callable[..., Path]
) -> None:
    out = collect(chat_server(scripted))
    pairs = read_table(out / "preferences.parquet")
    assert set(zip(pairs["chosen"], pairs["rejected"], strict=True)) == {("no, with pleasure", "no")}
    assert set(pairs["prompt_id"]) == {PROMPTS[0].prompt_id, PROMPTS[1].prompt_id}
    assert pairs["margin"].isna().all()
    assert set(pairs["p"]) == {1.0}
    counts = read_json(out / "collect.json")
    assert (counts["paired"], counts["not_revised"], counts["pairs"]) == (2, 1, 2)
    assert counts["revisions"] == {"revised": 2, "unchanged": 1, "empty": 0, "unreadable": 0}
    assert counts["violations"]["honest"] == {"violated": 3, "checked": 6, "invalid": 0}
    assert counts["judge_health"]["parts"]["principle: honest"]["agreement"]["value"] == 1.0


def test_collect_revised_goes_on_after_its_budget_and_pays_nothing_twice(
    chat_server: Callable[..., ChatServer], collect: Callable[..., Path]
) -> None:
    whole = chat_server(scripted)
    expected = (collect(whole) / "preferences.parquet").read_bytes()
    for path in (collect(whole).parent / "judging").rglob("*.jsonl"):
        path.unlink()
    server = chat_server(scripted)
    with pytest.raises(RoundStopped, match="raise it to continue"):
        collect(server, max_calls=len(whole.requests) - 2)
    assert (collect(server) / "preferences.parquet").read_bytes() == expected
    assert len(server.requests) == len(whole.requests)
