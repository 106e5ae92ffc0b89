"""The stage: planted defects are quarantined with their reasons, all other pairs stay, and the counts add up."""

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.artifacts import digest, read_json, read_table, write_json
from components.config import ChecksConfig, PolicyConfig
from components.data.funnel import LeftOut, as_json, step
from components.records import Artifact, DataRejected, ValidateRequest
from components.validation.held_out import evaluation_prompts
from components.validation.stage import run

Pair = Callable[..., dict[str, Any]]
Request = Callable[..., ValidateRequest]
LONG = "w1 w2 w3 w4 w5 w6 w7"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def validate(
    request: ValidateRequest, tmp_path: Path, folder: str = "out"
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    out = tmp_path / folder
    out.mkdir(exist_ok=True)
    run(request, out)
    train, evaluated, quarantine = (read_table(out / f"{name}.parquet") for name in ("train", "eval", "quarantine"))
    return train, evaluated, quarantine, read_json(out / "validation.json")


DEFECTS: dict[str, Callable[[Pair], dict[str, Any]]] = {
    "prompt is no list of chat messages": lambda pair: pair("w10", prompt="w10"),
    "prompt is empty": lambda pair: pair("  "),
    "prompt does not end with a user message": lambda pair: pair(
        [user("w10"), {"role": "assistant", "content": "w11"}]
    ),
    "prompt_id is not the prompt's": lambda pair: pair("w10", prompt_id="0" * 16),
    "chosen is empty": lambda pair: pair("w10", chosen=" \n"),
    "chosen is no text": lambda pair: pair("w10", chosen=None),
    "rejected is no text": lambda pair: pair("w10", rejected=None),
    "chosen equals rejected": lambda pair: pair("w10", chosen="w1 ", rejected="w1"),
    "p is outside [0, 1]": lambda pair: pair("w10", p=1.5),
    "p is no number": lambda pair: pair("w10", p=None),
    "margin is negative or infinite": lambda pair: pair("w10", margin=float("inf")),
    "tag is empty": lambda pair: pair("w10", tag=""),
    "tag is no text": lambda pair: pair("w10", tag=None),
    "prompt is held out": lambda pair: pair(" W199\n"),
    "prompt is longer than max_prompt_tokens": lambda pair: pair("w10 " * 10),
    "chosen equals rejected as tokens within max_response_tokens": lambda pair: pair(
        "w10", chosen=LONG, rejected=f"{LONG} w8"
    ),
    "the prompt's tokens are no prefix of prompt and answer": lambda pair: pair("w10", rejected="moves"),
    "the chat template refuses the conversation": lambda pair: pair([{"role": "system", "content": "w1"}, user("w10")]),
}


@pytest.mark.parametrize("reason", DEFECTS)
def test_planted_defect_is_quarantined_with_its_reason_and_nothing_else(
    reason: str, pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    good = [pair("w1"), pair("w2"), pair("w1", chosen="w9")]
    train, evaluated, quarantine, counts = validate(make_request([*good[:2], DEFECTS[reason](pair), good[2]]), tmp_path)
    assert list(quarantine["reason"]) == [reason]
    assert list(train["pair_id"]) == [row["pair_id"] for row in good]
    assert len(evaluated) == 0
    assert counts == {
        "received": 4,
        "replayed": 0,
        "train": 3,
        "eval": 0,
        "quarantined": 1,
        "answers": {"sampled": 0, "rendered": 6},
        "reasons": {reason: 1},
        "quarantine_share": 0.25,
    }


def test_prompt_whose_tool_calls_the_template_leaves_out_is_quarantined(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    calling = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    result = {"role": "tool", "content": "w5"}
    rows = [pair([user("w1"), result]), pair([user("w1"), calling, result]), pair("w2")]
    train, _, quarantine, _ = validate(make_request(rows), tmp_path)
    assert list(train["pair_id"]) == [rows[0]["pair_id"], rows[2]["pair_id"]]
    assert list(quarantine["reason"]) == ["the chat template refuses the conversation"]


def test_negative_margin_is_quarantined_and_an_absent_one_is_not(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    rows = [pair("w1", margin=None), pair("w2", margin=-0.5), pair("w3", margin=0.0)]
    train, _, quarantine, _ = validate(make_request(rows), tmp_path)
    assert list(quarantine["pair_id"]) == [rows[1]["pair_id"]]
    assert train["margin"].isna().tolist() == [True, False]


def test_row_with_two_defects_carries_both_reasons(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    rows = [
        pair("w1"),
        pair("w10 " * 10 + "w199", p=2.0, chosen=""),
        pair("w10 " * 10, chosen=LONG, rejected=f"{LONG} w8"),
    ]
    _, _, quarantine, counts = validate(make_request(rows), tmp_path)
    assert list(quarantine["reason"]) == [
        "chosen is empty; p is outside [0, 1]",
        "chosen equals rejected as tokens within max_response_tokens; prompt is longer than max_prompt_tokens",
    ]
    assert counts["quarantined"] == 2
    assert sum(counts["reasons"].values()) == 4


def test_answers_that_differ_within_the_limit_are_kept(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    rows = [pair("w1", chosen=LONG, rejected=f"{LONG} w8")]
    train, *_ = validate(make_request(rows, limits=PolicyConfig(max_prompt_tokens=12, max_response_tokens=8)), tmp_path)
    assert len(train) == 1


def test_prompt_at_the_limit_is_kept(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    request = make_request([pair("w10 " * 9), pair("w10 " * 10)])
    train, _, quarantine, _ = validate(request, tmp_path)
    assert (len(train), len(quarantine)) == (1, 1)


def test_duplicates_keep_the_first_and_contradictions_keep_neither(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    rows = [
        pair("w1"),
        pair("w1", chosen="w1 w2 "),
        pair("W1 "),
        pair("w2", chosen="w5", rejected="w6"),
        pair("w2", chosen="w6", rejected="w5"),
        pair("w3", chosen="w6", rejected="w5"),
    ]
    train, _, quarantine, counts = validate(make_request(rows), tmp_path)
    assert list(train["pair_id"]) == [rows[0]["pair_id"], rows[5]["pair_id"]]
    assert list(quarantine["reason"]) == ["duplicate of another pair"] * 2 + ["contradicts another pair"] * 2
    assert counts["reasons"] == {"contradicts another pair": 2, "duplicate of another pair": 2}


def replayed(pair: Pair, origin: int, *questions: str) -> list[dict[str, Any]]:
    return [pair(question) | {"origin_round": origin} for question in questions]


def test_replayed_pairs_join_training_only_and_carry_their_round(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    rows = [pair(f"w{number}") for number in range(20)]
    earlier = [replayed(pair, 1, "w30", "w31"), replayed(pair, 1, "w30", "w31") + replayed(pair, 2, "w32")]
    train, evaluated, _, counts = validate(make_request(rows, replayed=earlier, eval_share=0.9), tmp_path)
    assert Counter(train["origin_round"]) == {3: 2, 1: 2, 2: 1}
    assert set(evaluated["origin_round"]) == {3}
    assert (counts["received"], counts["replayed"], counts["quarantined"]) == (20, 3, 0)


def test_replayed_pairs_weigh_less_with_every_round_of_their_age(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    earlier = [replayed(pair, 1, "w30"), replayed(pair, 2, "w31")]
    earlier[0][0]["weight"] = 0.9  # what it weighed in an earlier round does not count again
    train, evaluated, _, _ = validate(make_request([pair("w1")], replayed=earlier, replay_decay=0.5), tmp_path)
    assert dict(zip(train["origin_round"], train["weight"], strict=True)) == {3: 1.0, 1: 0.25, 2: 0.5}
    assert set(evaluated["weight"]) <= {1.0}


def test_replayed_copy_of_a_new_pair_gives_way_and_costs_no_share(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    request = make_request([pair("w1"), pair("w2")], replayed=[replayed(pair, 2, "w1", "w5")], max_quarantine_share=0.0)
    train, _, quarantine, counts = validate(request, tmp_path)
    assert list(zip(train["pair_id"], train["origin_round"], strict=True)) == [
        (pair("w1")["pair_id"], 3),
        (pair("w2")["pair_id"], 3),
        (pair("w5")["pair_id"], 2),
    ]
    assert list(quarantine["origin_round"]) == [2]
    assert (counts["quarantined"], counts["quarantine_share"]) == (1, 0.0)


def test_prompt_that_is_replayed_is_never_evaluated_on(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    rows = [pair(f"w{number}", chosen="w9") for number in range(10)]
    request = make_request(
        rows, replayed=[replayed(pair, 2, *(f"W{number}" for number in range(1, 10)))], eval_share=0.99
    )
    _, evaluated, _, _ = validate(request, tmp_path)
    assert list(evaluated["pair_id"]) == [rows[0]["pair_id"]]


def test_split_keeps_a_prompt_on_one_side_and_follows_the_seed(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    rows = [
        pair(f"w{number}", chosen=f"w{answer}", rejected="w150") for number in range(40) for answer in (100, 101, 102)
    ]
    sides = {}
    for seed in (1, 2):
        train, evaluated, _, counts = validate(make_request(rows, eval_share=0.25, seed=seed), tmp_path)
        assert not set(train["prompt"]) & set(evaluated["prompt"])
        assert (counts["train"], counts["eval"]) == (90, 30)
        sides[seed] = set(evaluated["prompt"])
    assert sides[1] != sides[2]


def test_split_does_not_depend_on_the_order_of_the_pairs(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    rows = [pair(f"w{number}") for number in range(30)]
    _, forward, _, _ = validate(make_request(rows, eval_share=0.3), tmp_path)
    _, backward, _, _ = validate(make_request(rows[::-1], eval_share=0.3), tmp_path)
    assert sorted(forward["pair_id"]) == sorted(backward["pair_id"])


def test_evaluation_prompts_are_the_rounded_share() -> None:
    contents = [str(number) for number in range(40)]
    assert len(evaluation_prompts(contents * 2, share=0.1, seed=1)) == 4
    assert evaluation_prompts(contents, share=0.0, seed=1) == set()


def test_validate_twice_gives_the_same_bytes(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    request = make_request([pair(f"w{number}") for number in range(12)] + [pair("w199")], eval_share=0.3)
    validate(request, tmp_path)
    validate(request, tmp_path, "again")
    for name in ("train.parquet", "eval.parquet", "quarantine.parquet", "validation.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_too_large_a_quarantine_rejects_the_data_and_leaves_the_rows_to_read(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    rows = [pair(f"w{number}") for number in range(6)] + [pair("w20", chosen=""), pair("w21", chosen=""), pair("w199")]
    validate(make_request(rows, max_quarantine_share=3 / 9), tmp_path)
    with pytest.raises(DataRejected) as caught:
        validate(make_request(rows, max_quarantine_share=0.33), tmp_path, "rejected")
    assert str(caught.value) == (
        "3 of 9 pairs (33.3%) are quarantined, more than validation.max_quarantine_share = 0.33: "
        "9 pairs (2 x chosen is empty; 1 x prompt is held out): see quarantine.parquet"
    )
    assert len(read_table(tmp_path / "rejected" / "quarantine.parquet")) == 3
    assert read_json(tmp_path / "rejected" / "validation.json")["quarantined"] == 3


@pytest.mark.parametrize("eval_share", [0.0, 0.5])
def test_too_few_pairs_reject_the_data_even_with_replayed_ones(
    eval_share: float, pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    rows = [pair(f"w{number}") for number in range(8)]
    earlier = [replayed(pair, 2, *(f"w{number}" for number in range(50, 60)))]
    left = 8 if eval_share == 0.0 else 4
    validate(make_request(rows, replayed=earlier, min_pairs=left, eval_share=eval_share), tmp_path)
    told = f"{left} of 8 pairs are left to train on, fewer than validation.min_pairs = {left + 1} (10 replayed ones do "
    told += "not count): 8 pairs"
    told += {
        0.0: ": raise prompts.per_round, or lower validation.min_pairs",
        0.5: " (4 x kept for evaluation by validation.eval_share = 0.5): lower validation.eval_share",
    }[eval_share]
    with pytest.raises(DataRejected, match=re.escape(told)):
        validate(make_request(rows, replayed=earlier, min_pairs=left + 1, eval_share=eval_share), tmp_path)


def test_no_pairs_at_all_reject_the_data(make_request: Request, tmp_path: Path) -> None:
    with pytest.raises(
        DataRejected, match=r"0 of 0 pairs are left to train on, fewer than .* = 1: 0 pairs: raise prom"
    ):
        validate(make_request([]), tmp_path)
    assert read_json(tmp_path / "out" / "validation.json")["quarantine_share"] is None


def test_too_few_pairs_say_what_was_left_out_before_they_came_here(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    """A margin that left 45 of 48 prompts without a pair reads as "3 of 3 pairs are left", and nobody looks there."""
    margin = LeftOut(
        count=45, cause="the largest margin of scores, 0.5, is within preferences.min_margin = 1", remedy="lower it"
    )
    write_json(tmp_path / "collect.json", {"left_out": as_json([step(48, "prompts", [margin])])})
    request = make_request([pair("w1"), pair("w2"), pair("w199")]).model_copy(
        update={"collected": Artifact(path=tmp_path / "collect.json", digest="0")}
    )
    loose = request.validation.model_copy(update={"max_quarantine_share": 1.0, "min_pairs": 8})
    with pytest.raises(DataRejected) as caught:
        validate(request.model_copy(update={"validation": loose}), tmp_path)
    assert str(caught.value) == (
        "2 of 3 pairs are left to train on, fewer than validation.min_pairs = 8: 48 prompts (45 x the largest margin "
        "of scores, 0.5, is within preferences.min_margin = 1) gave 3 pairs (1 x prompt is held out): lower it"
    )


def test_what_was_left_out_before_makes_no_stage_run_again(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    request = make_request([pair("w1")])
    named = request.model_copy(update={"collected": Artifact(path=tmp_path / "collect.json", digest="0")})
    assert digest(request) == digest(named)


@pytest.mark.parametrize("kind", ["desirable", "undesirable"])
def test_single_responses_of_one_kind_are_refused_before_they_are_trained_on(
    kind: str, pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    """The loss needs both kinds, and said so only after the round's training had begun."""
    gone = "rejected" if kind == "desirable" else "chosen"
    rows = [pair(f"w{number}", **{gone: None}) for number in range(12)]
    told = f"all 12 responses that are left to train on are {kind}, and both kinds are needed: 12 pairs: set pref"
    with pytest.raises(DataRejected, match=told):
        validate(make_request(rows, takes="responses", min_pairs=1, eval_share=0.0), tmp_path)
    both = [*rows, pair("w100", **{"chosen" if kind == "desirable" else "rejected": None})]
    validate(make_request(both, takes="responses", min_pairs=1, eval_share=0.0), tmp_path, "both")
    soft = [pair(f"w{number}", p=0.9, **{gone: None}) for number in range(12)]
    validate(make_request(soft, takes="responses", min_pairs=1, eval_share=0.0), tmp_path, "soft")


def test_table_without_its_columns_is_rejected(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    request = make_request([pair("w1")])
    read_table(request.preferences).drop(columns=["chosen", "p"]).to_parquet(request.preferences.path)
    with pytest.raises(DataRejected, match="is not a table of preference pairs: it lacks the columns chosen, p"):
        validate(request, tmp_path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    planted=st.lists(st.sampled_from(["good", "again", "opposite", *DEFECTS]), max_size=25),
    share=st.floats(0, 0.9),
    carried=st.integers(0, 4),
)
def test_counts_add_up_for_any_mix(
    planted: list[str], share: float, carried: int, pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    good = ["good", "again", "opposite"]
    whole = {"good": pair("w100"), "again": pair("w101"), "opposite": pair("w101", chosen="w3", rejected="w1 w2")}
    rows = [whole[name] if name in good else DEFECTS[name](pair) for name in planted]
    request = make_request(
        rows,
        replayed=[replayed(pair, 1, *(f"w{120 + n}" for n in range(carried)))] if carried else [],
        eval_share=share,
    )
    out = tmp_path / "out"
    out.mkdir(exist_ok=True)
    try:
        run(request, out)
    except DataRejected as error:
        assert "left to train on" in str(error)  # noqa: PT017
    counts = read_json(out / "validation.json")
    tables = {name: read_table(out / f"{name}.parquet") for name in ("train", "eval", "quarantine")}
    assert (counts["received"], counts["replayed"]) == (len(rows), carried)
    assert counts["received"] + counts["replayed"] == counts["train"] + counts["eval"] + counts["quarantined"]
    assert (counts["train"], counts["eval"], counts["quarantined"]) == tuple(len(table) for table in tables.values())
    kept = pd.concat([tables["train"]["pair_id"], tables["eval"]["pair_id"]])
    both = {"again", "opposite"} <= set(planted)
    expected = {whole["good"]["pair_id"]} if "good" in planted else set()
    expected |= (
        {whole["again" if "again" in planted else "opposite"]["pair_id"]}
        if not both and {"again", "opposite"} & set(planted)
        else set()
    )
    assert set(kept) - {pair(f"w{120 + n}")["pair_id"] for n in range(carried)} == expected
    assert kept.is_unique


def test_single_responses_pass_where_they_are_taken_and_nowhere_else(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    rows = [pair("w10", rejected=None), pair("w11", chosen=None), pair("w12")]
    train, *_ = validate(make_request(rows, takes="responses"), tmp_path, "responses")
    assert train["chosen"].isna().tolist() == [False, True, False]
    assert train["rejected"].isna().tolist() == [True, False, False]
    *_, counts = validate(make_request(rows, takes="pairs"), tmp_path, "pairs")
    assert counts["reasons"] == {"chosen is no text": 1, "rejected is no text": 1}


def test_single_responses_are_checked_like_pairs(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    rows = [
        pair("w10", chosen=None, rejected=None),
        pair("w11", rejected=None),
        pair("w11", rejected=None),
        pair("w12", chosen="w1", rejected=None),
        pair("w12", chosen=None, rejected="w1 "),
        pair("w13", chosen=" ", rejected=None),
        pair("w14", chosen="w1", rejected=None),
        pair("w14", chosen="w1", rejected="w2"),
    ]
    train, *_, counts = validate(make_request(rows, takes="responses"), tmp_path)
    assert counts["reasons"] == {
        "contradicts another pair": 2,
        "neither chosen nor rejected is text": 1,
        "duplicate of another pair": 1,
        "chosen is empty": 1,
    }
    assert len(train) == 3


def test_an_empty_rejected_answer_is_trained_on_as_the_end_of_the_turn(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    """Else a policy could never unlearn to say nothing."""
    train, _, quarantine, _ = validate(make_request([pair("w1", rejected="")]), tmp_path)
    assert len(quarantine) == 0
    (rejected,) = train["rejected_ids"]
    assert list(rejected) == [3]  # <end>


def test_sampled_answers_keep_their_tokens_and_others_are_rendered(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    tokens = {"prompt_ids": [1, 7, 3, 2], "chosen_ids": [9, 9, 9], "rejected_ids": None}
    rows = [pair("w1") | tokens, pair("w2") | dict.fromkeys(tokens)]
    train, _, quarantine, counts = validate(make_request(rows), tmp_path)
    assert len(quarantine) == 0
    assert counts["answers"] == {"sampled": 1, "rendered": 3}
    assert [list(ids) for ids in train["prompt_ids"]] == [[1, 7, 3, 2], [1, 8, 3, 2]]
    assert [list(ids) for ids in train["chosen_ids"]] == [[9, 9, 9], [7, 8, 3]]
    assert [list(ids) for ids in train["rejected_ids"]] == [[9, 3], [9, 3]]


def test_sampled_answers_are_cut_at_a_lower_limit(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    rows = [pair("w1") | {"prompt_ids": [1, 7], "chosen_ids": [9] * 8, "rejected_ids": [8, 3]}]
    train, *_ = validate(make_request(rows), tmp_path)
    assert list(train["chosen_ids"][0]) == [9] * 6


def test_an_answer_that_the_tokenizer_cannot_say_is_quarantined(
    pair: Pair, make_request: Request, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train, _, quarantine, _ = validate(make_request([pair("w1"), pair("w2", chosen="w1 unheard w2")]), tmp_path)
    assert len(train) == 1
    assert list(quarantine["reason"]) == ["the answer's tokens decode to another text"]
    assert "'w1 <unk> w2' for 'w1 unheard w2'" in caplog.text


def test_pair_that_continues_a_held_out_conversation_is_quarantined(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    asked = "w11 w12 w13 w14 w15 w16"
    followed = pair([user(asked), {"role": "assistant", "content": "w1"}, user("w9")])
    limits = PolicyConfig(max_prompt_tokens=32, max_response_tokens=6)
    for by, quarantined in (("content", 0), ("conversation", 1)):
        request = make_request([followed, pair("w2")], held_out=[asked], limits=limits, held_out_by=by)
        _, _, quarantine, _ = validate(request, tmp_path)
        assert list(quarantine["reason"]) == ["prompt begins or continues a held-out conversation"] * quarantined


def test_round_reports_its_data_checks_and_stops_only_if_they_are_enforced(
    pair: Pair, make_request: Request, tmp_path: Path
) -> None:
    rows = [pair(f"w{number}", chosen="w1 w2", rejected="w1 w3") for number in range(10, 14)]
    strict = {"checks": ChecksConfig(response_characters=3, identical_when_cut={"on_breach": "fail"})}
    report, enforce = (make_request(rows, data_checks=mode).model_copy(update=strict) for mode in ("report", "enforce"))
    *_, counts = validate(report, tmp_path)
    verdicts = {check["name"]: check["verdict"] for check in counts["checks"]}
    assert (verdicts["identical_when_cut"], verdicts["damaged_text"]) == ("fail", "pass")
    assert counts["train"] == 4
    assert not any("examples" in check for check in counts["checks"]), "texts may not leave the machine"
    examples = read_table(tmp_path / "out" / "check_examples.parquet")
    assert set(examples["check"]) == {check for check, verdict in verdicts.items() if verdict in ("fail", "warn")}
    with pytest.raises(DataRejected, match=r"identical_when_cut: 4 of 4 rows, limit 2.0%"):
        validate(enforce, tmp_path)
    assert validate(make_request(rows, data_checks="enforce"), tmp_path)[-1]["train"] == 4


def test_examples_of_data_checks_show_no_secret(
    pair: Pair, make_request: Request, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    key = "AK" + "IAQWERTYUIOPASDFGH"
    validate(make_request([pair("w10", chosen=f"w1 {key}"), pair("w11")], data_checks="report"), tmp_path)
    examples = read_table(tmp_path / "out" / "check_examples.parquet").set_index("check")
    assert examples.loc["secrets", "place"] == "pair 1"
    assert "key]" in examples.loc["secrets", "excerpt"]
    assert key not in examples.to_csv()
    (line,) = [record.getMessage() for record in caplog.records if "data check" in record.getMessage()]
    assert "secrets: 1 of 2 rows, limit 0.0%" in line


def test_round_of_single_responses_is_checked_too(pair: Pair, make_request: Request, tmp_path: Path) -> None:
    rows = [pair("w10", rejected=None), pair("w11", chosen=None, rejected="w4")]
    *_, counts = validate(make_request(rows, takes="responses", data_checks="report"), tmp_path)
    (form,) = [check for check in counts["checks"] if check["name"] == "form"]
    assert (form["verdict"], form["found"]) == ("pass", 0)
