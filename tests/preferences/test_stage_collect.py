"""The stage: verdicts and pairs on disk, and counts that add up."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import file_digest, read_json, read_table, write_table
from components.builtin.world import train_prompts
from components.config import JudgeConfig, PolicyConfig, PreferencesConfig
from components.data.messages import format_messages
from components.data.preference_file import load_seed_pairs
from components.data.prompts import make_prompt
from components.judges import rule as rule_module
from components.judges.registry import judge_digest
from components.preferences.builders import BUILDERS
from components.preferences.stage import run
from components.preferences.tables import TOKEN_TYPES
from components.records import Artifact, CollectRequest, DataRejected, JudgeRef, JudgeUnavailable, ModelRef

PROMPTS = [make_prompt([{"role": "user", "content": f"question {number}"}]) for number in range(5)]
TEXTS = [
    ["bad", "good good", "good", "bad bad"],
    ["same", "same", "same", "same"],
    ["good", "good better", "good worse", "good other"],
    ["invalid", "invalid x", "good"],
    [],
]


NOBODY = ModelRef(round=0, base="nowhere", base_digest="0" * 64, digest="0" * 64)
MODELS: dict[str, Any] = {"policy": NOBODY, "start": NOBODY, "limits": PolicyConfig()}


def write_artifact(path: Path, table: pd.DataFrame) -> Artifact:
    write_table(path, table)
    return Artifact(path=path, digest=file_digest(path))


def goodness(messages: Any, text: str) -> float:
    return math.nan if "invalid" in text else text.count("good") - text.count("bad") / 2 + 0.25 * text.count("better")


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> JudgeRef:
    monkeypatch.setitem(rule_module.RULES, "goodness", rule_module.Rule(goodness, lambda: "1"))
    config = JudgeConfig(rule="goodness")
    return JudgeRef(config=config, digest=judge_digest(config))


@pytest.fixture
def collect(tmp_path: Path, judge: JudgeRef) -> Callable[..., Path]:
    def collect(texts: list[list[str]] = TEXTS, folder: str = "out", shuffled: int | None = None, **knobs: Any) -> Path:
        rows = [(prompt.prompt_id, format_messages(prompt.messages)) for prompt in PROMPTS]
        prompts = write_artifact(tmp_path / "prompts.parquet", pd.DataFrame(rows, columns=["prompt_id", "messages"]))
        sampled = [
            (p.prompt_id, n, text) for p, group in zip(PROMPTS, texts, strict=True) for n, text in enumerate(group)
        ]
        table = pd.DataFrame(sampled, columns=["prompt_id", "sample_id", "text"])
        table = table if shuffled is None else table.sample(frac=1, random_state=shuffled)
        responses = write_artifact(tmp_path / "responses.parquet", table)
        preferences = PreferencesConfig(**{"max_invalid_share": 0.5, **knobs})
        request = CollectRequest(
            responses=responses,
            prompts=prompts,
            seed_pairs_digest=None,
            judge=judge,
            preferences=preferences,
            seed=5,
            **MODELS,
        )
        out = tmp_path / folder
        out.mkdir()
        run(request, out)
        return out

    return collect


def test_collect_counts_every_prompt_once_and_pairs_the_extremes(collect: Callable[..., Path]) -> None:
    out = collect(min_margin=0.3)
    counts = read_json(out / "collect.json")
    health, active, left_out = (counts.pop(name) for name in ("judge_health", "active", "left_out"))
    assert active is None
    (judged,) = left_out
    assert (judged["total"], judged["noun"]) == (5, "prompts")
    assert {each["cause"]: each["count"] for each in judged["left_out"]} == {
        "fewer than two responses have a valid verdict": 2,
        "all responses are equal": 1,
        "the largest margin of scores, 0.25, is within preferences.min_margin = 0.3": 1,
    }
    assert (health["position_consistency"], health["invalid_share"]) == (None, pytest.approx(2 / 15))
    assert counts == {
        "prompts": 5,
        "responses": 15,
        "verdicts": 15,
        "invalid_verdicts": 2,
        "mean_score": pytest.approx((-0.5 + 2 + 1 - 1 + 0 * 4 + 1 + 1.25 + 1 + 1 + 1) / 13),
        "violations": {},
        "paired": 1,
        "ties": 1,
        "below_margin": 1,
        "no_verdict": 2,
        "not_compared": 0,
        "not_revised": 0,
        "chosen_cut": 0,
        "revisions": None,
        "pairs": 1,
        "tied_pairs": 0,
    }
    (pair,) = read_table(out / "preferences.parquet").to_dict("records")
    verdicts = read_table(out / "verdicts.parquet").set_index("verdict_id")
    cited = verdicts.loc[list(pair.pop("verdict_ids"))]
    assert list(cited["sample_id"]) == [1, 3]
    assert list(cited["score"]) == [2.0, -1.0]
    assert len(pair.pop("pair_id")) == 16
    tokens = {name: pair.pop(name) for name in TOKEN_TYPES}
    assert all(pd.isna(value) for value in tokens.values()), "these responses were not sampled here"
    assert pair == {
        "prompt_id": PROMPTS[0].prompt_id,
        "prompt": format_messages(PROMPTS[0].messages),
        "chosen": "good good",
        "rejected": "bad bad",
        "p": 1.0,
        "margin": 3.0,
        "tag": "helpfulness",
        "judge": "rule:goodness",
    }


def test_collect_writes_what_became_of_every_prompt(collect: Callable[..., Path]) -> None:
    outcomes = read_table(collect(pairs="all_pairs", ties="half") / "prompt_outcomes.parquet")
    assert list(outcomes["prompt_id"]) == [prompt.prompt_id for prompt in PROMPTS]
    assert list(outcomes["outcome"]) == ["paired", "ties", "paired", "no_verdict", "no_verdict"]
    assert list(outcomes["pairs"]) == [6, 0, 6, 0, 0]
    assert list(outcomes["tied_pairs"]) == [0, 0, 3, 0, 0]
    assert list(outcomes["mean_score"])[:4] == [
        pytest.approx((-0.5 + 2 + 1 - 1) / 4),
        0.0,
        pytest.approx(4.25 / 4),
        1.0,
    ]
    assert math.isnan(outcomes["mean_score"].iloc[4])


def test_collect_keeps_every_raw_verdict_and_no_default_score(collect: Callable[..., Path]) -> None:
    verdicts = read_table(collect() / "verdicts.parquet")
    assert len(verdicts) == verdicts["verdict_id"].nunique() == 15
    assert verdicts["opponent_id"].isna().all()
    assert str(verdicts["opponent_id"].dtype) == str(verdicts["sample_id"].dtype) == "Int64"
    invalid = verdicts[verdicts["status"] == "invalid"]
    assert len(invalid) == 2
    assert invalid["score"].isna().all()
    assert invalid["detail"].str.contains("not finite").all()


def test_collect_writes_the_soft_label_and_the_tag(collect: Callable[..., Path]) -> None:
    pairs = read_table(collect(soft_labels="bradley_terry", soft_label_scale=2.0, tag="safety") / "preferences.parquet")
    assert list(pairs["margin"]) == [3.0, 0.25]
    assert list(pairs["p"]) == pytest.approx([1 / (1 + math.exp(-1.5)), 1 / (1 + math.exp(-0.125))])
    assert set(pairs["tag"]) == {"safety"}


def test_collect_counts_prompts_and_pairs_apart_where_a_prompt_gives_several(collect: Callable[..., Path]) -> None:
    out = collect(pairs="all_pairs", ties="half")
    counts = read_json(out / "collect.json")
    # 4 different answers in the first prompt give 6 pairs, the second has one text, the third 4 with three equal
    # scores, the fourth one.
    assert [counts[name] for name in ("prompts", "paired", "ties", "no_verdict", "pairs", "tied_pairs")] == [
        5,
        2,
        1,
        2,
        12,
        3,
    ]
    pairs = read_table(out / "preferences.parquet")
    assert len(pairs) == pairs["pair_id"].nunique() == 12
    assert pairs["p"].value_counts().to_dict() == {1.0: 9, 0.5: 3}


@pytest.mark.parametrize("rule", sorted(BUILDERS))
def test_collect_twice_gives_the_same_bytes_whatever_the_order_of_the_responses(
    collect: Callable[..., Path], rule: str
) -> None:
    one, other = collect(pairs=rule), collect(pairs=rule, folder="again", shuffled=3)
    for name in ("verdicts.parquet", "preferences.parquet", "prompt_outcomes.parquet", "collect.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


def test_collect_draws_for_every_prompt_anew(collect: Callable[..., Path]) -> None:
    pairs = read_table(
        collect([["good"] + [f"bad {number}" for number in range(12)]] * 5, pairs="best_random") / "preferences.parquet"
    )
    assert len(pairs) == 5
    assert pairs["rejected"].nunique() > 1


def test_collect_with_too_many_invalid_verdicts_stops(collect: Callable[..., Path]) -> None:
    with pytest.raises(
        JudgeUnavailable,
        match=r"judge rule:goodness: 2 of 15 verdicts \(13.3%\) are invalid, more than .* = 0.1; .*\(2 times\): the",
    ):
        collect(max_invalid_share=0.1)


def test_collect_with_a_judge_beyond_a_limit_stops_after_the_evidence_is_written(
    collect: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(
        JudgeUnavailable,
        match=r"rule:goodness: its tie share is .* above preferences.max_tie_share = 0\.1; .* or change the limit",
    ):
        collect([["bad", "good", "good one", "good two"]] * 5, max_tie_share=0.1)
    health = read_json(tmp_path / "out" / "collect.json")["judge_health"]
    assert health["tie_share"]["value"] == 0.5
    assert len(read_table(tmp_path / "out" / "verdicts.parquet")) == 20


def test_collect_without_responses_stops(collect: Callable[..., Path]) -> None:
    with pytest.raises(JudgeUnavailable, match="returned no verdicts"):
        collect([[], [], [], [], []])


def test_collect_with_a_changed_judge_stops(collect: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rule_module.RULES, "goodness", rule_module.Rule(goodness, lambda: "2"))
    with pytest.raises(ValueError, match="has changed since the campaign began"):
        collect()


SEEDS: list[dict[str, Any]] = [
    {"prompt": "a", "chosen": "yes", "rejected": "no", "margin": 2.0, "tag": "style"},
    {"prompt": "b", "chosen": "yes", "rejected": "no", "margin": 0.0},
    {"prompt": "c", "chosen": "yes", "rejected": "no", "margin": 0.5},
    {"prompt": "d", "chosen": "yes", "rejected": "no", "p": 0.7},
    {
        "chosen": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "x"}],
        "rejected": [{"role": "user", "content": "f"}, {"role": "assistant", "content": "x"}],
    },
]


def collect_seeds(
    tmp_path: Path,
    rows: list[dict[str, Any]],
    digest: str | None = None,
    limits: PolicyConfig = MODELS["limits"],
    **knobs: Any,
) -> Path:
    path = tmp_path / "seed.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = JudgeConfig()
    request = CollectRequest(
        responses=None,
        prompts=None,
        seed_pairs_digest=digest or load_seed_pairs(str(path), split="train").digest,
        judge=JudgeRef(config=config, digest=judge_digest(config)),
        preferences=PreferencesConfig(seed_pairs=str(path), **knobs),
        seed=5,
        **MODELS | {"limits": limits},
    )
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    run(request, out)
    return out


def test_collect_from_rated_completions_pairs_the_best_with_the_worst_and_counts_the_unrated(tmp_path: Path) -> None:
    completions = [{"response": name, "fine-grained_score": score} for name, score in (("a", 1.0), ("b", 4.5))]
    rows = [
        {"instruction": "x", "completions": completions},
        {"instruction": "y", "completions": completions[:1]},
    ]
    out = collect_seeds(tmp_path, rows)
    counts = read_json(out / "collect.json")
    assert [counts[name] for name in ("prompts", "paired", "no_verdict", "pairs")] == [2, 1, 1, 1]
    (pair,) = read_table(out / "preferences.parquet").to_dict("records")
    assert (pair["chosen"], pair["rejected"], pair["margin"]) == ("b", "a", 3.5)


def test_collect_from_a_data_set_counts_every_row(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        out = collect_seeds(tmp_path, SEEDS, min_margin=0.5)
    counts = read_json(out / "collect.json")
    assert (counts.pop("judge_health"), counts.pop("active")) == (None, None)
    assert [each["count"] for each in counts.pop("left_out")[0]["left_out"]] == [1, 1, 1]
    assert counts == {
        "prompts": 5,
        "responses": 0,
        "verdicts": 0,
        "invalid_verdicts": 0,
        "mean_score": None,
        "violations": {},
        "paired": 2,
        "ties": 1,
        "below_margin": 1,
        "no_verdict": 1,
        "not_compared": 0,
        "not_revised": 0,
        "chosen_cut": 0,
        "revisions": None,
        "pairs": 2,
        "tied_pairs": 0,
    }
    pairs = read_table(out / "preferences.parquet")
    assert list(pairs["tag"]) == ["style", "helpfulness"]
    assert list(pairs["p"]) == [1.0, 0.7]
    assert pairs["margin"].tolist()[0] == 2.0
    assert math.isnan(pairs["margin"].tolist()[1])
    assert [list(cited) for cited in pairs["verdict_ids"]] == [[], []]
    assert set(pairs["judge"]) == {"dataset:seed.jsonl"}
    assert list(pairs["prompt_id"]) == [make_prompt([{"role": "user", "content": text}]).prompt_id for text in "ad"]
    verdicts = read_table(out / "verdicts.parquet")
    assert len(verdicts) == 0
    assert {"verdict_id", "opponent_id", "score"} <= set(verdicts.columns)
    assert "1 rows give no pair, because chosen and rejected differ before the last answer" in caplog.text


def test_data_set_without_a_pair_says_which_row_ended_where_and_the_largest_margin(tmp_path: Path) -> None:
    with pytest.raises(DataRejected) as caught:
        collect_seeds(tmp_path, [*SEEDS[:3], SEEDS[2], SEEDS[4]], min_margin=2.0)
    assert str(caught.value).split(" can be trained on: ")[1] == (
        "5 rows (3 x the largest margin of scores, 2, is within preferences.min_margin = 2; 1 x the margin is 0 "
        "(preferences.ties = drop); 1 x chosen and rejected differ before the last answer): "
        "lower preferences.min_margin"
    )


def test_collect_from_a_data_set_turns_margins_into_soft_labels(tmp_path: Path) -> None:
    pairs = read_table(
        collect_seeds(tmp_path, SEEDS[:1] + SEEDS[3:4], soft_labels="bradley_terry") / "preferences.parquet"
    )
    assert list(pairs["p"]) == pytest.approx([1 / (1 + math.exp(-2)), 0.7])


def test_collect_from_a_data_set_without_margins_refuses_soft_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="soft_labels = bradley_terry needs p or margin in every row"):
        collect_seeds(tmp_path, [{"prompt": "a", "chosen": "yes", "rejected": "no"}], soft_labels="bradley_terry")


def test_collect_from_a_data_set_keeps_ties_as_halves_where_they_are_kept(tmp_path: Path) -> None:
    out = collect_seeds(tmp_path, SEEDS, ties="half")
    assert list(read_table(out / "preferences.parquet")["p"]) == [1.0, 0.5, 1.0, 0.7]
    counts = read_json(out / "collect.json")
    assert (counts["ties"], counts["tied_pairs"], counts["pairs"]) == (0, 1, 4)


def test_collect_from_a_data_set_without_verdicts_refuses_their_labels(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="soft_labels = verdict needs p in every row"):
        collect_seeds(tmp_path, SEEDS[:1], soft_labels="verdict")


def test_collect_from_a_data_set_leaves_a_negative_margin_to_validation(tmp_path: Path) -> None:
    out = collect_seeds(tmp_path, [{"prompt": "a", "chosen": "yes", "rejected": "no", "margin": -1.0}])
    assert list(read_table(out / "preferences.parquet")["margin"]) == [-1.0]
    assert read_json(out / "collect.json")["below_margin"] == 0


def test_collect_from_a_data_set_that_changed_stops(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="changed while the round was running"):
        collect_seeds(tmp_path, SEEDS, digest="0" * 64)


def test_collect_judges_the_builtin_world(tmp_path: Path) -> None:
    messages = train_prompts()[0]
    prompt = make_prompt(messages)
    prompts = write_artifact(
        tmp_path / "prompts.parquet",
        pd.DataFrame({"prompt_id": [prompt.prompt_id], "messages": [format_messages(messages)]}),
    )
    table = pd.DataFrame(
        {"prompt_id": [prompt.prompt_id] * 2, "sample_id": [0, 1], "text": ["", "I am sorry about this."]}
    )
    responses = write_artifact(tmp_path / "responses.parquet", table)
    config = JudgeConfig()
    judge = JudgeRef(config=config, digest=judge_digest(config))
    request = CollectRequest(
        responses=responses,
        prompts=prompts,
        seed_pairs_digest=None,
        judge=judge,
        preferences=PreferencesConfig(),
        seed=1,
        **MODELS,
    )
    run(request, tmp_path)
    (pair,) = read_table(tmp_path / "preferences.parquet").to_dict("records")
    assert (pair["chosen"], pair["rejected"]) == ("I am sorry about this.", "")


@pytest.mark.parametrize(
    ("texts", "knobs", "told"),
    [
        (
            [["good"] * 3] * 5,
            {},
            r"\(5 x all responses are equal\): raise generation.temperature, and leave",
        ),
        ([["good", "good other"]] * 5, {}, r"\(5 x the scores tie\): use a judge that tells responses apart"),
        (
            [["good", "bad"], ["same", "same"], *[["good better", "bad"]] * 3],
            {"min_margin": 4},
            r"\(4 x the largest margin of scores, 1.75, is within preferences.min_margin = 4; 1 x all responses are "
            r"equal\): lower preferences.min_margin",
        ),
        (
            # Scores 1, 0 and -0.5: the best wins against both others and the worst against none, so the margin is 1.
            [["good", "plain", "bad"]] * 5,
            {"pairs": "nash", "min_margin": 1},
            r"\(5 x the largest margin of scores, 1, is within preferences.min_margin = 1\): lower preferences.min",
        ),
        (
            # Scores 1, 0 and -0.5 around their median 0.
            [["good", "plain", "bad"]] * 5,
            {"pairs": "unpaired", "min_margin": 1},
            r"\(5 x the largest distance from preferences.threshold = median, 1, is within preferences.min_margin = 1",
        ),
        ([["good", "good too"]] * 5, {"pairs": "unpaired"}, r"\(5 x the scores are the threshold\): set "),
    ],
    ids=["equal", "ties", "margin", "margin of win rates", "distance from the threshold", "at the threshold"],
)
def test_round_without_a_pair_says_at_which_step_its_prompts_ended(
    texts: list[list[str]], knobs: dict[str, Any], told: str, collect: Callable[..., Path]
) -> None:
    with pytest.raises(DataRejected, match=f"no pair could be built: 5 prompts {told}"):
        collect(texts, **knobs)


def test_collect_from_a_data_set_puts_the_system_prompt_before_prompts_without_one(tmp_path: Path) -> None:
    rows = [SEEDS[0], {**SEEDS[3], "system": "Be brief."}]
    limits = MODELS["limits"].model_copy(update={"system_prompt": "Be kind."})
    pairs = read_table(collect_seeds(tmp_path, rows, limits=limits) / "preferences.parquet")
    assert [[message["content"] for message in json.loads(prompt)] for prompt in pairs["prompt"]] == [
        ["Be kind.", "a"],
        ["Be brief.", "d"],
    ]
    assert [make_prompt(json.loads(prompt)).prompt_id for prompt in pairs["prompt"]] == list(pairs["prompt_id"])
