"""A round whose pairs a chat model judges.

It stops at its limit, goes on elsewhere, pays nothing twice, and keeps its key to itself.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret

from components.artifacts import read_json, read_table
from components.builtin.world import support_reply
from components.campaign.state import known_state
from components.config import CampaignConfig, JudgeConfig
from tasks.judge_keys import provide_keys
from tests.judges.chat_server import ChatServer

Make = Callable[..., CampaignConfig]
KEY = "sk-0123456789-nobody-may-see-this"
BLOCK = re.compile(r"<<data ([0-9a-f]{24})>>\n(.*?)\n<<end of data \1>>", re.DOTALL)


def by_the_rule(request: dict[str, Any]) -> str:
    """Judge as the built-in world's rule does."""
    conversation, first, second = (text for _, text in BLOCK.findall(request["messages"][0]["content"]))
    messages = [{"role": "user", "content": conversation.removeprefix("[user]\n")}]
    one, other = support_reply(messages, first), support_reply(messages, second)
    return json.dumps(
        {"reason": f"{one} and {other}", "verdict": "A" if one > other else "B" if other > one else "tie"}
    )


def start(config: CampaignConfig) -> Any:
    from flows.iterative_dpo import iterative_dpo

    return iterative_dpo(config, return_state=True)


@pytest.mark.usefixtures("prefect_session")
def test_chat_judge_stops_at_its_limit_goes_on_elsewhere_and_tells_nobody_its_key(
    runs: Path,
    make_config: Make,
    chat_server: Callable[..., ChatServer],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("RATCHET_SECRET_JUDGE_KEY", "")
    Secret(value=KEY).save("judge-key", overwrite=True)
    first, second = chat_server(by_the_rule), chat_server(by_the_rule)

    def config(server: ChatServer, **limits: Any) -> CampaignConfig:
        prices = {"price_per_million_input": 1.0, "price_per_million_output": 2.0}
        endpoint = server.endpoint(api_key_from="prefect:judge-key", **prices, **limits)
        judge = {"kind": "llm", "endpoint": endpoint, "comparisons": 2}
        return make_config(judge=judge, evaluation_judge={"kind": "rule"})

    stopped = start(config(first, max_calls=30))
    assert stopped.name == "Stopped"
    assert "judge scripted has used 30 calls of endpoint.max_calls = 30: raise it to continue" in stopped.message
    assert len(first.requests) == 30
    assert start(config(second)).is_completed()
    asked = {json.dumps(request) for request in [*first.requests, *second.requests]}
    assert len(asked) == len(first.requests) + len(second.requests) > 60

    (record,) = known_state("small").rounds
    collected = runs / "small" / "round-001" / "collect_preferences"
    usage = read_json(collected / "judge_usage.json")
    assert usage["calls"] == len(asked)
    assert usage["cost"] == pytest.approx((usage["input_tokens"] + 2 * usage["output_tokens"]) / 1e6)
    assert not (runs / "small" / "round-001" / "evaluate" / "judge_usage.json").exists()
    verdicts = read_table(collected / "verdicts.parquet")
    orders = verdicts[verdicts["part"] == "forward"]
    assert len(orders) == len(asked) / 2
    assert record.num_pairs > 0

    assert {headers["authorization"] for headers in first.headers + second.headers} == {f"Bearer {KEY}"}
    written = [path for path in runs.rglob("*") if path.is_file()]
    assert any(path.name == "mlflow.db" for path in written)
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in caplog.text


@pytest.mark.usefixtures("prefect_session")
@pytest.mark.parametrize(
    ("block", "value", "message"),
    [
        ("key-of-nobody", None, "the Secret block key-of-nobody does not exist: add it on the Prefect page"),
        ("key-of-spaces", " ", "the Secret block key-of-spaces does not hold a key"),
    ],
    ids=["missing", "empty"],
)
def test_judge_key_that_no_block_holds_is_told(block: str, value: str | None, message: str) -> None:
    if value is not None:
        Secret(value=value).save(block, overwrite=True)
    juror = {
        "kind": "llm",
        "endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m", "api_key_from": f"prefect:{block}"},
    }
    with pytest.raises(ValueError, match=message):
        provide_keys(JudgeConfig.model_validate({"kind": "jury", "jurors": [juror, {"kind": "rule"}]}))
