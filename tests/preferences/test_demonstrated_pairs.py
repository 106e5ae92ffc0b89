"""Pairs of demonstrations and answers: which there are, in which shares, and with whose tokens."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import file_digest, read_json, write_table
from components.config import CampaignConfig, JudgeConfig, PolicyConfig, PreferencesConfig
from components.data.messages import format_messages
from components.data.prompts import prompt_id
from components.judges.protocol import Group, SampledTokens
from components.judges.registry import judge_digest
from components.preferences.demonstrated_pairs import (
    DemonstratedPairs,
    Demonstrations,
    EarlierAnswers,
    build_demonstrated,
)
from components.preferences.stage import run
from components.preferences.standalone.kept import Judged
from components.preferences.standalone.steps import judge_and_pair, pair_again
from components.records import AnsweredRound, Artifact, CollectRequest, JudgeRef, ModelRef

MESSAGES = [[{"role": "user", "content": f"question {number}"}] for number in range(3)]
NAMES = [prompt_id(messages) for messages in MESSAGES]


def shown(*answers: str, place: int = 0) -> dict[str, Demonstrations]:
    return {NAMES[place]: Demonstrations(NAMES[place], MESSAGES[place], answers)}


def group(*texts: str, place: int = 0, finish: str = "stop") -> Group:
    tokens = {number: SampledTokens((number, 9), finish, "law") for number in range(len(texts))}
    return Group(NAMES[place], MESSAGES[place], tuple(enumerate(texts)), prompt_ids=(1, 2), tokens=tokens)


def earlier(champion: int, *groups: Group) -> EarlierAnswers:
    return EarlierAnswers(champion, {each.prompt_id: each for each in groups})


def build(
    demonstrations: dict[str, Demonstrations],
    groups: list[Group],
    before: list[EarlierAnswers] | None = None,
    *,
    pairs: str = "ditto",
    champion: int = 1,
    seed: int = 1,
    **knobs: Any,
) -> DemonstratedPairs:
    preferences = PreferencesConfig(pairs=pairs, demonstrations="d.jsonl", **knobs)  # type: ignore[arg-type]
    return build_demonstrated(
        demonstrations, groups, before or [], champion=champion, source="d", preferences=preferences, seed=seed
    )


def texts(built: DemonstratedPairs) -> list[tuple[str, str]]:
    return [(row["chosen"], row["rejected"]) for row in built.rows]


def test_spin_pairs_each_demonstration_with_each_other_answer_once() -> None:
    built = build(shown("best", "good"), [group("bad", " bad", "best ", "", "worse")], pairs="spin")
    assert texts(built) == [(one, other) for one in ("best", "good") for other in ("bad", "", "worse")]
    assert {row["p"] for row in built.rows} == {1.0}
    assert built.outcomes == {NAMES[0]: "paired"}
    assert built.counts == {"used": 2, "answers": 5, "equal": 1, "equal_share": 0.2, "pairs": {"current": 6}}


def test_spin_reads_no_earlier_round() -> None:
    built = build(shown("best"), [group("bad")], [earlier(0, group("older"))], pairs="spin")
    assert texts(built) == [("best", "bad")]


def test_ditto_draws_its_comparisons_in_the_papers_shares() -> None:
    now, before = [f"now {number}" for number in range(70)], [f"before {number}" for number in range(70)]
    built = build(shown("best"), [group(*now)], [earlier(0, group(*before))])
    assert built.counts["pairs"] == {"current": 70, "replay": 20, "later": 10}
    sides = Counter((row["chosen"].split()[0], row["rejected"].split()[0]) for row in built.rows)
    assert sides == {("best", "now"): 70, ("best", "before"): 20, ("now", "before"): 10}
    again = build(shown("best"), [group(*now)], [earlier(0, group(*before[::-1]))])
    assert sorted(texts(again)) == sorted(texts(built))
    assert texts(build(shown("best"), [group(*now)], [earlier(0, group(*before))], seed=2)) != texts(built)


@pytest.mark.parametrize(("champion", "later"), [(1, 0), (2, 0), (3, 1)])
def test_ditto_prefers_no_answer_of_the_same_or_of_a_rolled_back_policy(champion: int, later: int) -> None:
    now, before = [f"now {number}" for number in range(10)], [f"before {number}" for number in range(10)]
    built = build(shown("best"), [group(*now)], [earlier(2, group(*before))], champion=champion)
    assert built.counts["pairs"] == {"current": 10, "replay": 3, "later": later}


def test_ditto_makes_no_pair_of_an_answer_that_both_policies_gave() -> None:
    now = [f"same {number}" for number in range(10)]
    built = build(shown("best"), [group(*now)], [earlier(0, group(*now, "old"))])
    assert built.counts["pairs"] == {"current": 10, "replay": 1, "later": 0}
    pairs = texts(built)
    assert not {(b, a) for a, b in pairs} & set(pairs)
    assert len(set(pairs)) == len(pairs)


def test_ditto_chooses_no_empty_answer_and_no_cut_one_if_those_are_only_rejected() -> None:
    before = [earlier(0, group(*(f"before {number}" for number in range(30))))]
    now = [group(*(f"now {number}" for number in range(20)), finish="length")]
    assert build(shown("best"), now, before).counts["pairs"]["later"] == 3
    assert build(shown("best"), now, before, cut_responses="rejected").counts["pairs"]["later"] == 0
    assert build(shown("best"), [group("")], before).counts["pairs"]["later"] == 0


def test_ditto_replays_a_prompt_that_the_round_did_not_draw() -> None:
    demonstrations = shown("best") | shown("fine", place=1)
    now = [group(*(f"now {number}" for number in range(7)))]
    built = build(demonstrations, now, [earlier(0, group("old", place=1))])
    assert ("fine", "old") in texts(built)
    assert built.outcomes == {NAMES[0]: "paired"}


def test_answers_that_all_say_the_demonstration_tie_with_it() -> None:
    demonstrations = shown("best") | shown("fine", place=1)
    built = build(demonstrations, [group("best", "best\n"), group(place=1)], pairs="spin")
    assert built.rows == []
    assert built.outcomes == {NAMES[0]: "ties", NAMES[1]: "no_verdict"}
    assert built.counts["equal_share"] == 1.0


def test_stage_carries_tokens_of_sampled_answers_only_and_asks_no_judge(tmp_path: Path) -> None:
    def table(name: str, rows: list[dict[str, Any]]) -> Artifact:
        write_table(tmp_path / name, pd.DataFrame(rows))
        return Artifact(path=tmp_path / name, digest=file_digest(tmp_path / name))

    prompt = format_messages(MESSAGES[0])
    sampled = {"prompt_id": NAMES[0], "finish_reason": "stop", "sampling": "law"}
    prompts = table("prompts", [{"prompt_id": NAMES[0], "messages": prompt, "token_ids": [5, 6]}])
    now = [sampled | {"sample_id": n, "text": text, "token_ids": [n, 9]} for n, text in enumerate(["best", "bad"])]
    old = [sampled | {"sample_id": 0, "text": "old", "token_ids": [8, 9]}]
    nobody = ModelRef(round=1, base="nowhere", base_digest="0" * 64, digest="0" * 64)
    judge = JudgeConfig()
    request = CollectRequest(
        responses=table("responses", now),
        prompts=prompts,
        seed_pairs_digest=None,
        judge=JudgeRef(config=judge, digest=judge_digest(judge)),
        policy=nobody,
        start=nobody,
        limits=PolicyConfig(),
        preferences=PreferencesConfig(pairs="spin", demonstrations="d.jsonl"),
        seed=5,
        demonstrations=table("demonstrations", [{"prompt_id": NAMES[0], "messages": prompt, "answer": "best"}]),
        answered=(AnsweredRound(champion=0, prompts=prompts, responses=table("old", old)),),
    )
    out = tmp_path / "out"
    out.mkdir()
    run(request, out)
    (row,) = pd.read_parquet(out / "preferences.parquet").to_dict("records")
    assert (row["chosen"], row["rejected"], row["judge"]) == ("best", "bad", "demonstrations:d.jsonl")
    assert row["chosen_ids"] is None
    assert list(row["rejected_ids"]) == [1, 9]
    assert list(row["prompt_ids"]) == [5, 6]
    assert json.loads(row["prompt"]) == MESSAGES[0]
    assert len(pd.read_parquet(out / "verdicts.parquet")) == 0
    counts = read_json(out / "collect.json")
    assert counts["responses"] == 2
    assert counts["judge_health"] is None
    assert counts["demonstrations"]["equal"] == 1


def test_stored_answers_without_a_campaign_are_refused_for_demonstrations() -> None:
    preferences = PreferencesConfig(pairs="spin", demonstrations="d.jsonl")
    config = CampaignConfig(campaign="x", preferences=preferences)
    with pytest.raises(ValueError, match="is built from demonstrations, and not from verdicts: run a campaign with it"):
        judge_and_pair([], config, models=None, out=Path("unused"))
    with pytest.raises(ValueError, match="or choose other pairs"):
        pair_again(Judged([], []), preferences, seed=1, out=Path("unused"))
