import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from components.artifacts import read_json, read_table
from components.builtin.world import held_out_prompts, support_reply
from components.config import EvaluationConfig, GateConfig, RegressionConfig
from components.data.messages import Messages, parse_messages
from components.evaluation import stage
from components.evaluation.held_out import gate_ids
from components.evaluation.stage import _asked
from components.judges.protocol import Group, Opinion, Verdict, conclude_pair, judge_alone, make_verdict
from components.models.loading import load_tokenizer
from components.models.tokens import ChatTokenizer
from components.promotion.gate import Decision, decide
from components.records import Artifact, EvaluateRequest, Interval, JudgeUnavailable, ModelRef, PromotionTest
from components.regression.run import CACHE

Make = Callable[..., EvaluateRequest]
NUM_PROMPTS = 24
MODELS = ("start", "champion", "challenger")
GATE = GateConfig(
    max_length_ratio=100.0,
    min_length_ratio=0.0,
    max_length_ratio_to_start=0.0,
    min_length_ratio_to_start=0.0,
    max_kl_to_start=1e6,
)


class Brevity:
    """Score shorter responses higher. `odd` names prompts whose responses it cannot read."""

    name = "brevity"

    def __init__(self, odd: Sequence[str] = ()) -> None:
        self.odd = odd

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        def score(conversation: Messages, text: str) -> Opinion:
            return (
                Opinion(None, "unreadable") if conversation[-1]["content"] in self.odd else Opinion(-float(len(text)))
            )

        return judge_alone(self.name, groups, lambda texts: [score(messages, text) for messages, text in texts])


class EveryThird:
    """Prefer the first of a prompt's responses, but on every third prompt the second, whatever they say."""

    name = "every third"

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        verdicts = []
        for group in groups:
            if group.prompt_id not in self.prompts:
                self.prompts.append(group.prompt_id)
            wins = float(self.prompts.index(group.prompt_id) % 3 != 0)
            (first, _), (second, _) = group.responses
            verdicts += [
                make_verdict(self.name, group, first, Opinion(wins)),
                make_verdict(self.name, group, second, Opinion(1 - wins)),
            ]
        return verdicts


class ShorterOfTwo:
    """Compare in both orders, without scores."""

    name = "shorter of two"

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        verdicts = []
        for group in groups:
            first, second = group.responses
            share = 0.5 + 0.5 * ((len(first[1]) < len(second[1])) - (len(first[1]) > len(second[1])))
            verdicts += conclude_pair(
                self.name, group, first[0], second[0], forward=Opinion(share), backward=Opinion(1 - share)
            )
        return verdicts


def _pool(held_out: Artifact) -> tuple[Any, list[str]]:
    """Return the messages by prompt id, and the ids that the gate of `make_request` draws."""
    pool = read_table(held_out).set_index("prompt_id")["messages"]
    return pool, gate_ids(dict.fromkeys(pool.index), round=1, size=NUM_PROMPTS, audit_share=0.2, seed=5)[0]


@pytest.fixture
def drawn(held_out: Artifact) -> list[str]:
    """The last messages of the held-out prompts of `make_request`, in the order in which they are compared."""
    pool, names = _pool(held_out)
    return [parse_messages(pool[name])[-1]["content"] for name in names]


@pytest.fixture
def plotted() -> list[dict[str, Any]]:
    """The arguments of the plots."""
    return []


@pytest.fixture
def evaluate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, plotted: list[dict[str, Any]]
) -> Callable[..., tuple[dict[str, Any], Path]]:
    """Run an evaluation with a judge of the test, and then without plots.

    Or just as it is, when the judge is None.
    """

    def run(request: EvaluateRequest, judge: Any, name: str = "evaluate") -> tuple[dict[str, Any], Path]:
        if judge is not None:
            monkeypatch.setattr(stage, "load_pinned_judge", lambda pinned, context: judge)
            monkeypatch.setattr(stage, "evaluation_plots", lambda directory, **numbers: plotted.append(numbers))
        out = tmp_path / name
        out.mkdir()
        stage.run(request, out)
        return read_json(out / "evaluation.json"), out

    return run


def verdict_on(evaluation: dict[str, Any]) -> Decision:
    return decide(evaluation, GATE)


def test_evaluation_by_the_rule_publishes_what_the_contract_names(
    make_request: Make, evaluate: Any, drawn: list[str]
) -> None:
    found, out = evaluate(make_request("near", "rambling"), None)
    samples = read_table(out / "samples.parquet")
    assert found["num_prompts"] == NUM_PROMPTS
    assert found["judge"] == "rule:support_reply"
    assert found["win_rate_vs_champion"]["n"] == found["kl_to_start_interval"]["n"] == NUM_PROMPTS
    assert found["kl_to_start_interval"]["low"] < found["kl_to_start"] < found["kl_to_start_interval"]["high"]
    assert (found["reward_accuracy"], found["reward_margin"]) == (0.8125, 0.4)
    for key in ("mean_reward", "mean_tokens", "empty_share", "unfinished_share"):
        assert list(found[key]) == ["start", "champion", "challenger"]
    assert found["unfinished_share"]["champion"] > 0.5 > found["unfinished_share"]["start"]
    assert all(0 < found["diversity"][name][f"distinct_{n}"] <= 1 for name in MODELS for n in (1, 2))
    unusable = {name: found["empty_share"][name] + found["unfinished_share"][name] for name in MODELS}
    increase = found["unfinished_increase"]
    assert increase["value"] == pytest.approx(unusable["challenger"] - unusable["champion"])
    assert -1 < increase["low"] < increase["value"] < increase["high"] < 0
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "samples.parquet", "plots"}
    assert {path.name for path in (out / "plots").iterdir()} == {
        f"{name}.png" for name in ("rewards", "lengths", "outcomes", "evidence")
    }
    assert samples["prompt"].tolist() == drawn[:10]
    for row in samples.to_dict("records"):
        for name in ("start", "champion", "challenger"):
            assert row[f"reward_{name}"] == support_reply([{"role": "user", "content": row["prompt"]}], row[name])
        gap = row["reward_challenger"] - row["reward_champion"]
        assert row["outcome_vs_champion"] == (1 if gap > 0 else 0 if gap < 0 else 0.5)


def test_evaluation_numbers_are_the_means_of_its_samples(
    make_request: Make, evaluate: Any, plotted: list[dict[str, Any]]
) -> None:
    settings = EvaluationConfig(bootstrap_resamples=100, num_samples=NUM_PROMPTS)
    found, out = evaluate(make_request("terse", "rambling", evaluation=settings), Brevity())
    samples = read_table(out / "samples.parquet")
    for name in ("start", "champion", "challenger"):
        assert found["empty_share"][name] == pytest.approx((samples[name].str.strip() == "").mean())
        assert found["mean_reward"][name] == pytest.approx(samples[f"reward_{name}"].mean())
        assert found["mean_tokens"][name] == pytest.approx(sum(plotted[0]["lengths"][name]) / NUM_PROMPTS)
    assert found["empty_share"]["challenger"] > 0.3 > found["empty_share"]["champion"]
    assert found["unfinished_share"]["champion"] > 0.5 > found["unfinished_share"]["challenger"] == 0
    for opponent in ("champion", "start"):
        assert found[f"win_rate_vs_{opponent}"]["value"] == pytest.approx(samples[f"outcome_vs_{opponent}"].mean())


def test_evaluation_of_the_same_request_gives_the_same_bytes(make_request: Make, evaluate: Any) -> None:
    outs = [evaluate(make_request("near", "rambling"), None, name)[1] for name in ("first", "second")]
    for path in sorted(outs[0].rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (outs[1] / path.relative_to(outs[0])).read_bytes(), path.name


@pytest.mark.parametrize("judge", [Brevity(), ShorterOfTwo()], ids=["scores", "compares"])
def test_evaluation_with_a_better_challenger_promotes_it(make_request: Make, evaluate: Any, judge: Any) -> None:
    found, _ = evaluate(make_request("terse", "rambling"), judge)
    assert found["win_rate_vs_champion"]["low"] > 0.65
    assert verdict_on(found).promoted


@pytest.mark.parametrize("judge", [Brevity(), ShorterOfTwo()], ids=["scores", "compares"])
def test_evaluation_with_a_worse_challenger_refuses_it(make_request: Make, evaluate: Any, judge: Any) -> None:
    found, _ = evaluate(make_request("rambling", "terse"), judge)
    assert found["win_rate_vs_champion"]["high"] < 0.35
    assert not verdict_on(found).promoted


def test_evaluation_with_challenger_and_champion_swapped_is_mirrored(make_request: Make, evaluate: Any) -> None:
    ours, _ = evaluate(make_request("terse", "near", start=_third(make_request)), Brevity(), "ours")
    theirs, _ = evaluate(make_request("near", "terse", start=_third(make_request)), Brevity(), "theirs")
    one, other = (Interval(**found["win_rate_vs_champion"]) for found in (ours, theirs))
    assert one.value not in (0.0, 0.5, 1.0)
    assert other.value == pytest.approx(1 - one.value, abs=1e-12)
    assert (other.low, other.high) == (pytest.approx(1 - one.high, abs=1e-12), pytest.approx(1 - one.low, abs=1e-12))
    for key in ("mean_reward", "mean_tokens", "empty_share", "unfinished_share"):
        assert ours[key]["challenger"] == theirs[key]["champion"]
        assert ours[key]["start"] == theirs[key]["start"]


def _third(make_request: Make) -> ModelRef:
    return make_request("rambling", "near").challenger


@pytest.mark.parametrize("judge", [None, Brevity(), ShorterOfTwo()], ids=["rule", "scores", "compares"])
def test_evaluation_of_a_champion_against_itself_is_one_half_and_refused(
    make_request: Make, evaluate: Any, judge: Any
) -> None:
    found, _ = evaluate(make_request("near", "near"), judge)
    assert found["win_rate_vs_champion"] == {"value": 0.5, "low": 0.5, "high": 0.5, "n": NUM_PROMPTS}
    assert not verdict_on(found).promoted


def test_evaluation_estimates_the_divergence_of_known_models(make_request: Make, evaluate: Any) -> None:
    """Words are equally likely in both models, so each token adds the KL of a coin, tossed until the response ends."""
    found, _ = evaluate(make_request("terse", "near"), Brevity())
    coin = 0.6 * math.log(0.6 / 0.1) + 0.4 * math.log(0.4 / 0.9)
    exact = coin / 0.6
    assert found["kl_to_start_interval"]["low"] <= exact <= found["kl_to_start_interval"]["high"]
    assert abs(found["kl_to_start"] - exact) < 0.5 * exact


def test_evaluation_of_the_start_against_itself_has_no_divergence(make_request: Make, evaluate: Any) -> None:
    found, _ = evaluate(make_request("start", "start"), None)
    assert found["kl_to_start_interval"] == {"value": 0.0, "low": 0.0, "high": 0.0, "n": NUM_PROMPTS}


def test_evaluation_where_the_champion_is_the_start_judges_it_once(make_request: Make, evaluate: Any) -> None:
    asked: list[int] = []

    class Counting(ShorterOfTwo):
        def judge(self, groups: Sequence[Group]) -> list[Verdict]:
            asked.append(len(groups))
            return super().judge(groups)

    found, out = evaluate(make_request("rambling", "start"), Counting())
    assert asked == [NUM_PROMPTS]
    assert found["win_rate_vs_champion"]["value"] == found["win_rate_vs_start"]["value"]
    samples = read_table(out / "samples.parquet")
    assert samples["champion"].tolist() == samples["start"].tolist()


def test_evaluation_by_a_judge_without_scores_has_no_rewards(
    make_request: Make, evaluate: Any, plotted: list[dict[str, Any]]
) -> None:
    found, out = evaluate(make_request("near", "rambling"), ShorterOfTwo())
    assert found["mean_reward"] is None
    assert read_table(out / "samples.parquet")["reward_challenger"].isna().all()
    assert plotted[0]["rewards"] == {}


def test_evaluation_leaves_out_and_counts_a_prompt_without_verdict(
    make_request: Make, evaluate: Any, plotted: list[dict[str, Any]], drawn: list[str]
) -> None:
    found, out = evaluate(make_request("near", "rambling"), Brevity([drawn[2]]))
    assert found["num_prompts"] == NUM_PROMPTS
    assert found["win_rate_vs_champion"]["n"] == found["win_rate_vs_start"]["n"] == NUM_PROMPTS - 1
    assert found["invalid_share"] == pytest.approx(1 / NUM_PROMPTS)
    samples = read_table(out / "samples.parquet")
    missing = samples[["reward_start", "reward_champion", "reward_challenger", "outcome_vs_start"]].isna().all(axis=1)
    assert missing.tolist() == [row == 2 for row in range(10)]
    assert len(plotted[0]["outcomes_vs_start"]) == len(plotted[0]["rewards"]["champion"]) == NUM_PROMPTS - 1
    assert len(plotted[0]["lengths"]["champion"]) == NUM_PROMPTS


def test_evaluation_with_too_many_invalid_verdicts_stops(make_request: Make, evaluate: Any, drawn: list[str]) -> None:
    with pytest.raises(JudgeUnavailable, match="4 of 48 comparisons"):
        evaluate(make_request("near", "rambling"), Brevity(drawn[:2]))


def test_evaluation_without_held_out_pairs_has_no_reward_accuracy(make_request: Make, evaluate: Any) -> None:
    found, _ = evaluate(make_request("near", "start", trained=None), Brevity())
    assert found["reward_accuracy"] is None
    assert found["reward_margin"] is None


def test_evaluation_skips_and_counts_a_prompt_that_is_too_long(
    make_request: Make, evaluate: Any, held_out: Artifact
) -> None:
    request = make_request("near", "start")
    chat = ChatTokenizer(load_tokenizer(request.start))
    pool, names = _pool(held_out)
    lengths = [len(chat.prompt_ids(parse_messages(pool[name]))) for name in names]
    limit = max(lengths) - 1
    found, out = evaluate(make_request("near", "start", limits={"max_prompt_tokens": limit}), Brevity())
    assert found["skipped_long_prompts"] == sum(length > limit for length in lengths)
    assert found["num_prompts"] == sum(length <= limit for length in lengths)
    short = [name for name, length in zip(names, lengths, strict=True) if length <= limit]
    assert read_table(out / "samples.parquet")["prompt_id"].tolist() == short[:10]


def test_evaluation_with_only_long_prompts_says_which_limit_to_raise(make_request: Make, evaluate: Any) -> None:
    with pytest.raises(
        ValueError, match=r"all 24 held-out prompts are longer than policy.max_prompt_tokens = 2: .*: raise policy"
    ):
        evaluate(make_request("near", "start", limits={"max_prompt_tokens": 2}), Brevity())


def test_evaluation_by_a_judge_that_changed_is_refused(make_request: Make, evaluate: Any) -> None:
    request = make_request("near", "start")
    with pytest.raises(ValueError, match="has changed since the campaign began"):
        evaluate(request.model_copy(update={"judge": request.judge.model_copy(update={"digest": "0" * 64})}), None)


def test_sample_of_a_prompt_that_ends_with_a_result_shows_what_was_asked_and_called() -> None:
    """The result of a tool alone says nothing to who reads the report."""
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {}}}
    first = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    asked = [*first, {"role": "user", "content": "Weather?"}]
    called = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    result = [{"role": "tool", "content": "-4", "tool_call_id": "c1"}]
    assert _asked(asked) == "Weather?"
    shown = _asked([*asked, *called, *result])
    assert shown.startswith("[user]\nWeather?\n\n[assistant]\n[tool calls]\n")
    assert shown.endswith("\n\n[tool: weather, c1]\n-4")


class Asked(ShorterOfTwo):
    """Also remembers the prompts that it was asked about, by call."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        self.calls.append(sorted({group.prompt_id for group in groups}))
        return super().judge(groups)


@pytest.mark.parametrize(
    ("challenger", "champion", "ended"),
    [("terse", "rambling", "shown"), ("rambling", "terse", "hopeless")],
)
def test_evaluation_asks_no_more_once_the_evidence_is_clear(
    make_request: Make, evaluate: Any, challenger: str, champion: str, ended: str
) -> None:
    judge = Asked()
    test = PromotionTest(level=0.02, look_every=4, verdict_cost=0.25)
    found, out = evaluate(make_request(challenger, champion, test=test), judge)
    judged = found["evidence"]["num_judged"]
    assert found["evidence_ended"] == ended
    assert 4 <= judged < NUM_PROMPTS
    assert judged % 4 == 0
    assert [len(prompts) for prompts in judge.calls] == [4] * (judged // 4)
    assert found["win_rate_vs_champion"]["n"] == found["win_rate_vs_start"]["n"] == judged
    assert found["num_prompts"] == found["kl_to_start_interval"]["n"] == NUM_PROMPTS
    assert len(found["e_values"]) == judged
    assert verdict_on(found).promoted == found["evidence"]["shown"] == (ended == "shown")
    assert len(read_table(out / "samples.parquet")) == min(10, judged)


def test_evaluation_in_several_looks_says_what_one_look_says(make_request: Make, evaluate: Any) -> None:
    several, at_once = (PromotionTest(level=0.05, look_every=prompts) for prompts in (5, NUM_PROMPTS))
    one, _ = evaluate(make_request("near", "start", test=several), EveryThird(), "one")
    other, _ = evaluate(make_request("near", "start", test=at_once), EveryThird(), "other")
    assert one["evidence"]["num_judged"] == NUM_PROMPTS, "neither shown nor hopeless before"
    assert one == other


def test_evaluation_counts_a_missing_verdict_against_the_challenger(
    make_request: Make, evaluate: Any, drawn: list[str]
) -> None:
    whole, _ = evaluate(make_request("terse", "rambling"), Brevity(), "whole")
    lacking, _ = evaluate(make_request("terse", "rambling"), Brevity(drawn[:1]), "lacking")
    assert whole["e_values"][0] > 1 > lacking["e_values"][0]


def test_evaluation_with_several_samples_takes_each_prompt_once(
    make_request: Make, evaluate: Any, plotted: list[dict[str, Any]]
) -> None:
    settings = EvaluationConfig(bootstrap_resamples=100, num_samples=NUM_PROMPTS, samples_per_prompt=3)
    found, out = evaluate(make_request("near", "rambling", evaluation=settings), Brevity())
    assert found["evidence"]["num_judged"] == found["win_rate_vs_champion"]["n"] == NUM_PROMPTS
    assert found["kl_to_start_interval"]["n"] == found["unfinished_increase"]["n"] == NUM_PROMPTS
    outcomes, lengths = plotted[0]["outcomes_vs_champion"], plotted[0]["lengths"]
    assert {round(6 * outcome) for outcome in outcomes} - {0, 3, 6}
    assert found["win_rate_vs_champion"]["value"] == pytest.approx(sum(outcomes) / NUM_PROMPTS)
    assert len(lengths["challenger"]) == 3 * NUM_PROMPTS
    alone, _ = evaluate(make_request("near", "rambling"), Brevity(), "alone")
    assert lengths["champion"][::3] == plotted[1]["lengths"]["champion"]
    assert found["mean_tokens"] != alone["mean_tokens"]
    assert len(read_table(out / "samples.parquet")) == NUM_PROMPTS


def test_evaluation_asks_the_regression_suite_and_keeps_what_was_solved(
    make_request: Make, evaluate: Any, tmp_path: Path
) -> None:
    words = held_out_prompts()[0][-1]["content"]
    items = [{"id": str(item), "prompt": words, "check": {"kind": "regex", "pattern": ".*"}} for item in range(60)]
    tasks = tmp_path / "easy.jsonl"
    tasks.write_text("".join(json.dumps({"task": "easy"} | item) + "\n" for item in items))
    suite = RegressionConfig(tasks=(str(tasks),), max_loss=0.1, max_tokens=4)
    found, out = evaluate(make_request("terse", "rambling", regression=suite), Brevity())
    task = found["regression"]["tasks"]["easy"]
    assert (task["num_items"], task["solved"]) == (60, dict.fromkeys(("challenger", "champion", "start"), 1.0))
    decision = decide(found, GATE, suite)
    assert any(reason.startswith("regression task easy: the challenger solves 1.000") for reason in decision.reasons)
    kept = list((out.parent.parent / CACHE).rglob("*.json"))
    assert len(kept) == 3
    missing = decide({name: value for name, value in found.items() if name != "regression"}, GATE, suite)
    assert not missing.promoted
