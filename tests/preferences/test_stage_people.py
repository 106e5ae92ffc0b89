"""The stage with people: what they decide, and what their votes say about the judges of the same pairs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import read_json, read_table, write_json
from components.config import ActiveConfig, JudgeConfig, PolicyConfig, PreferencesConfig
from components.data.prompts import make_prompt
from components.judges import rule as rule_module
from components.judges.registry import judge_digest
from components.labelling.task import LABELLING, VOTES, Item, Vote, Votes, read_task
from components.preferences.stage import run
from components.records import CollectRequest, JudgeRef, JudgeUnavailable, ModelRef, RoundWaits

PROMPTS = [make_prompt([{"role": "user", "content": f"question {number}"}]) for number in range(4)]
TEXTS = [["a", "bb"], ["ccc", "d"], ["e", "ff"], ["g", "hhh"]]
NOBODY = ModelRef(round=0, base="nowhere", base_digest="0" * 64, digest="0" * 64)
RULES: dict[str, Callable[..., float]] = {
    "length": lambda messages, text: float(len(text)),
    "short": lambda messages, text: -float(len(text)),
}


def pinned(**config: Any) -> JudgeRef:
    judge = JudgeConfig.model_validate(config)
    return JudgeRef(config=judge, digest=judge_digest(judge))


@pytest.fixture
def request_of(tables_of: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, score in RULES.items():
        monkeypatch.setitem(rule_module.RULES, name, rule_module.Rule(score, lambda: "1"))

    models = {"policy": NOBODY, "start": NOBODY, "limits": PolicyConfig(), "preferences": PreferencesConfig()}

    def request(texts: list[list[str]] = TEXTS, **knobs: Any) -> CollectRequest:
        tables = tables_of(PROMPTS, texts)
        return CollectRequest(seed_pairs_digest=None, seed=5, **tables, **models, **knobs)

    return request


def start(campaign: Path, request: CollectRequest) -> Path:
    """Run the stage as a campaign does; people's task and judges' files lie beside its output."""
    out = campaign / "round-001" / f"out-{len(list(campaign.glob('round-001/out-*')))}"
    out.mkdir(parents=True)
    run(request, out)
    return out


def longer_wins(campaign: Path, annotators: tuple[str, ...] = ("anna",)) -> int:
    """Let everybody prefer the longer answer; return the number of pairs."""
    (path,) = (campaign / LABELLING).glob("*/task.json")
    task = read_task(path.parent)

    def vote(item: Item, name: str) -> Vote:
        choice = "first" if len(item.first) > len(item.second) else "second"
        given = {"vote_id": item.item_id + name, "seconds": 1.0, "at": task.created_at, "flag": None}
        given |= {"item_id": item.item_id, "annotator": name, "choice": choice, "shown_left": "first"}
        return Vote.model_validate(given)

    votes = tuple(vote(item, name) for item in task.items for name in annotators)
    write_json(path.parent / VOTES, Votes(task=task.task, closed="quota", closed_at=task.created_at, votes=votes))
    return len(task.items)


def agreements(out: Path) -> dict[str, float]:
    judges = read_json(out / "people.json")["judges"]
    return {name: judge["agreement"]["value"] for name, judge in judges.items()}


def people(**fields: Any) -> dict[str, Any]:
    return {"kind": "people", "people": {"overlap_share": 0.0, **fields}}


def test_people_alone_make_the_pairs_and_measure_the_judge_of_the_evaluation(request_of: Any, tmp_path: Path) -> None:
    request = request_of(judge=pinned(**people()), checked_judge=pinned(rule="short"))
    with pytest.raises(RoundWaits):
        start(tmp_path, request)
    assert longer_wins(tmp_path, ("anna", "ben")) == 4
    out = start(tmp_path, request)
    pairs = read_table(out / "preferences.parquet")
    assert sorted(pairs["chosen"]) == ["bb", "ccc", "ff", "hhh"]
    measured = read_json(out / "people.json")
    assert measured["agreement"]["value"] == 1.0
    assert sorted(measured["annotators"]) == ["anna", "ben"]
    assert agreements(out) == {"rule:short": 0.0}
    assert measured["judges"]["rule:short"]["cohen_kappa"] < 0
    assert set(read_table(out / "verdicts.parquet")["part"]) == {"", "by anna", "by ben"}
    assert read_json(out / "collect.json")["judge_health"]["parts"] == {}, "a person is no part of the judge"


@pytest.mark.parametrize("same", [["a", "bb", "a"], ["bb", "a", "bb"]])
def test_texts_that_were_sampled_twice_measure_a_judge_once(
    same: list[str], request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """People judged them once, but the interval took them for two pairs."""
    asked: list[int] = []

    def shortness(_: Any, text: str) -> float:
        asked.append(1)
        return -float(len(text))

    monkeypatch.setitem(rule_module.RULES, "short", rule_module.Rule(shortness, lambda: "1"))
    request = request_of([same, *TEXTS[1:]], judge=pinned(**people()), checked_judge=pinned(rule="short"))
    with pytest.raises(RoundWaits):
        start(tmp_path, request)
    assert longer_wins(tmp_path, ("anna", "ben")) == 4
    out = start(tmp_path, request)
    judge = read_json(out / "people.json")["judges"]["rule:short"]
    assert (judge["pairs"], judge["agreement"]["n"], judge["agreement"]["value"]) == (4, 4, 0.0)
    assert len(asked) == 8, "the checked judge reads each text of each pair once"


def test_costly_people_turn_the_pairs_and_measure_the_judge_that_chose_them(request_of: Any, tmp_path: Path) -> None:
    request = request_of(
        judge=pinned(rule="short"),
        active=ActiveConfig(budget=3, judge=JudgeConfig.model_validate(people())),
        active_judge=pinned(**people()),
        checked_judge=pinned(rule="length"),
    )
    with pytest.raises(RoundWaits):
        start(tmp_path, request)
    assert longer_wins(tmp_path) == 3
    out = start(tmp_path, request)
    assert read_json(out / "collect.json")["active"]["flipped"] == 3
    judges = read_json(out / "people.json")["judges"]
    assert {name: judge["agreement"]["value"] for name, judge in judges.items()} == {
        "rule:short": 0.0,
        "rule:length": 1.0,
    }
    assert {judge["pairs"] for judge in judges.values()} == {3}


def test_questions_stay_the_same_while_people_vote_though_the_judge_scores_otherwise(
    request_of: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an accelerator a reward model need not score alike twice: other pairs would be asked about, and votes lost."""
    request = request_of(
        judge=pinned(rule="short"),
        active=ActiveConfig(budget=2, judge=JudgeConfig.model_validate(people())),
        active_judge=pinned(**people()),
    )
    with pytest.raises(RoundWaits):
        start(tmp_path, request)
    noisy = rule_module.Rule(lambda messages, text: float(ord(text[0]) * len(text) % 7), lambda: "1")
    monkeypatch.setitem(rule_module.RULES, "short", noisy)
    longer_wins(tmp_path)
    assert read_json(start(tmp_path, request) / "collect.json")["active"]["asked"] == 2


def test_people_on_a_jury_measure_the_other_jurors_and_not_the_jury(request_of: Any, tmp_path: Path) -> None:
    request = request_of(judge=pinned(kind="jury", jurors=[{"rule": "length"}, people(), {"rule": "short"}]))
    with pytest.raises(RoundWaits):
        start(tmp_path, request)
    longer_wins(tmp_path)
    judges = read_json(start(tmp_path, request) / "people.json")["judges"]
    assert {name: judge["agreement"]["value"] for name, judge in judges.items()} == {
        "rule:length": 1.0,
        "rule:short": 0.0,
    }


def test_round_without_people_has_no_report_of_them(request_of: Any, tmp_path: Path) -> None:
    out = start(tmp_path, request_of(judge=pinned(rule="short")))
    assert not (out / "people.json").exists()


@pytest.mark.parametrize("is_costly", [True, False])
def test_round_whose_people_all_skip_says_that_no_vote_counts(request_of: Any, tmp_path: Path, is_costly: bool) -> None:
    costly = {"active": ActiveConfig(budget=3, judge=JudgeConfig.model_validate(people()))}
    knobs = {"judge": pinned(rule="short"), "active_judge": pinned(**people())} | costly
    request = request_of(**(knobs if is_costly else {"judge": pinned(**people())}))
    with pytest.raises(RoundWaits):
        start(tmp_path, request)
    everybody_skips(tmp_path)
    with pytest.raises(JudgeUnavailable, match="no vote that counts: every pair was skipped"):
        start(tmp_path, request)


def test_jury_whose_people_all_skip_goes_on_and_the_report_says_that_they_did(request_of: Any, tmp_path: Path) -> None:
    jury = pinned(kind="jury", votes="dawid_skene", jurors=[{"rule": "length"}, people()])
    request = request_of(judge=jury, checked_judge=pinned(rule="short"))
    with pytest.raises(RoundWaits):
        start(tmp_path, request)
    everybody_skips(tmp_path)
    out = start(tmp_path, request)
    assert sorted(read_table(out / "preferences.parquet")["chosen"]) == ["bb", "ccc", "ff", "hhh"]
    measured = read_json(out / "people.json")
    assert (measured["labelled"], measured["annotators"]["anna"]["skips"]) == (0, 4)
    assert measured["judges"]["rule:length"]["agreement"] is None


def test_round_of_other_judges_has_no_people_although_an_earlier_start_asked_some(
    request_of: Any, tmp_path: Path
) -> None:
    request = request_of(judge=pinned(**people()))
    with pytest.raises(RoundWaits):
        start(tmp_path, request)
    longer_wins(tmp_path)
    assert (start(tmp_path, request) / "people.json").exists()
    assert not (start(tmp_path, request_of(judge=pinned(rule="short"))) / "people.json").exists()


def everybody_skips(campaign: Path) -> None:
    longer_wins(campaign)
    (path,) = (campaign / LABELLING).glob(f"*/{VOTES}")
    votes = read_json(path)
    write_json(path, votes | {"votes": [vote | {"choice": "skip"} for vote in votes["votes"]]})
