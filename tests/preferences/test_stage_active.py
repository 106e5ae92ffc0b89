"""The stage with a jury and a costly judge, as a campaign runs them."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import read_json, read_table
from components.config import ActiveConfig, JudgeConfig, PolicyConfig, PreferencesConfig
from components.data.prompts import make_prompt
from components.judges import rule as rule_module
from components.judges.registry import judge_digest
from components.preferences.stage import run
from components.records import CollectRequest, DataRejected, JudgeRef, ModelRef

PROMPTS = [make_prompt([{"role": "user", "content": f"question {number}"}]) for number in range(4)]
TEXTS = [["a", "bb"], ["ccc", "d"], ["e x", "ff"], ["g", "hhh x"]]
NOBODY = ModelRef(round=0, base="nowhere", base_digest="0" * 64, digest="0" * 64)
RULES = {
    "length": lambda messages, text: float(len(text)),
    "words": lambda messages, text: -float(len(text.split())),
    "same": lambda messages, text: 0.0,
    "exact": lambda messages, text: -float("x" in text),
}
JURY = {"kind": "jury", "jurors": [{"rule": "length"}, {"rule": "length"}, {"rule": "words"}]}


def pinned(**config: Any) -> JudgeRef:
    judge = JudgeConfig.model_validate(config)
    return JudgeRef(config=judge, digest=judge_digest(judge))


@pytest.fixture
def request_of(tables_of: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, score in RULES.items():
        monkeypatch.setitem(rule_module.RULES, name, rule_module.Rule(score, lambda: "1"))

    tables = tables_of(PROMPTS, TEXTS)
    models = {"policy": NOBODY, "start": NOBODY, "limits": PolicyConfig()}

    def request(**knobs: Any) -> CollectRequest:
        preferences = PreferencesConfig.model_validate({"soft_labels": "verdict"} | knobs.pop("preferences", {}))
        return CollectRequest(
            seed_pairs_digest=None, judge=pinned(**JURY), preferences=preferences, seed=5, **tables, **models, **knobs
        )

    return request


def collected(request: CollectRequest, out: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    out.mkdir()
    run(request, out)
    return (
        read_table(out / "preferences.parquet"),
        read_table(out / "verdicts.parquet"),
        read_json(out / "collect.json"),
    )


def test_collect_with_a_jury_labels_pairs_with_its_probability_and_keeps_every_juror(
    request_of: Any, tmp_path: Path
) -> None:
    pairs, verdicts, counts = collected(request_of(), tmp_path / "out")
    votes = {"bb": (2.5 + 1) / 5, "ccc": (2.5 + 1) / 5, "e x": (2 + 1) / 5, "hhh x": (2 + 1) / 5}
    assert dict(zip(pairs["chosen"], pairs["p"], strict=True)) == pytest.approx(votes)
    assert set(verdicts["part"]) == {"", "rule:length", "rule:length#2", "rule:words"}
    assert verdicts["verdict_id"].is_unique
    assert set(pairs["judge"]) == {"jury:majority"}
    assert (counts["verdicts"], counts["pairs"]) == (4, 4)
    assert counts["active"] is None


def test_collect_sends_the_pairs_on_which_the_jury_is_split_to_the_costly_judge(
    request_of: Any, tmp_path: Path
) -> None:
    request = request_of(active=ActiveConfig(budget=2), active_judge=pinned(rule="exact"))
    pairs, verdicts, counts = collected(request, tmp_path / "out")
    assert counts["active"] == {
        "budget": 2,
        "choose_by": "disagreement",
        "candidates": 4,
        "asked": 2,
        "agreed": 0,
        "flipped": 2,
        "ties": 0,
        "invalid": 0,
        "dropped": 0,
        "chosen_cut": 0,
    }
    again = pairs[pairs["judge"] == "rule:exact"].set_index("chosen")
    assert set(again.index) == {"ff", "g"}
    # A judge that scores gives no probability, so its word is taken as certain.
    assert list(again["p"]) == [1.0, 1.0]
    costly = verdicts[verdicts["part"] == "costly"].set_index("verdict_id")
    assert sorted(costly.loc[list(again.loc["g", "verdict_ids"])]["score"]) == [-1.0, 0.0]
    assert (counts["verdicts"], counts["pairs"], len(costly)) == (4, 4, 4)


def test_collect_counts_the_pairs_that_are_left(request_of: Any, tmp_path: Path) -> None:
    request = request_of(active=ActiveConfig(budget=1, rest="drop"), active_judge=pinned(rule="exact"))
    pairs, _, counts = collected(request, tmp_path / "out")
    assert len(pairs) == counts["pairs"] == 1
    assert (counts["paired"], counts["active"]["dropped"]) == (4, 3)


def test_round_whose_pairs_the_costly_judge_all_drops_stops_and_says_so(request_of: Any, tmp_path: Path) -> None:
    """It went on with no pair, and validation said that 0 of 0 are left."""
    active = ActiveConfig(budget=1, rest="drop")
    request = request_of(active=active, active_judge=pinned(rule="same"))
    with pytest.raises(DataRejected) as caught:
        collected(request, tmp_path / "out")
    assert str(caught.value) == (
        "no pair is left after the costly judge: 4 prompts gave 4 pairs (3 x the costly judge decided nothing "
        "(active.rest = drop, active.budget = 1); 1 x the costly judge finds the answers tied (preferences.ties = "
        "drop)): set `active: {rest: keep}`, or raise active.budget"
    )
    assert read_json(tmp_path / "out" / "collect.json")["active"]["dropped"] == 4


def test_collect_refuses_a_costly_judge_that_changed(
    request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = request_of(active=ActiveConfig(budget=1), active_judge=pinned(rule="exact"))
    monkeypatch.setitem(rule_module.RULES, "exact", rule_module.Rule(RULES["exact"], lambda: "2"))
    with pytest.raises(ValueError, match="has changed since the campaign began"):
        collected(request, tmp_path / "out")


def test_collect_by_closeness_before_a_policy_was_promoted_still_asks_for_its_budget(
    request_of: Any, tmp_path: Path
) -> None:
    request = request_of(active=ActiveConfig(budget=2, choose_by="closeness"), active_judge=pinned(rule="exact"))
    *_, counts = collected(request, tmp_path / "out")
    assert counts["active"]["asked"] == 2
