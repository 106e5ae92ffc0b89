"""The Python judge: weighted sums of the user's functions, what is stored of each, and what pins them."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from components.config import CampaignConfig, JudgeConfig, JurorConfig
from components.judges.protocol import Group, JudgeContext, SampledTokens, Verdict, scores
from components.judges.registry import (
    check_judge,
    describe_judge,
    judge_digest,
    load_judge,
    load_pinned_judge,
)
from components.records import JudgeRef

ASK = [{"role": "user", "content": "2 + 2?"}]
GROUPS = [
    Group("p", ASK, ((0, "4"), (3, "five"), (5, "4")), columns={"answer": "4"}),
    Group("q", [{"role": "user", "content": "Hi"}], ((0, "Hello"),), tokens={0: SampledTokens((1, 2), "stop", None)}),
]
FUNCTIONS = """
def exact(completions, answer, **kwargs):
    return [None if a is None else float(c[0]["content"] == a) for c, a in zip(completions, answer)]
def brief(response): return -len(response)
def fragile(response):
    if response == "five": raise ValueError("cannot read five")
    return 1
def tokens(completion_ids, **kwargs): return [None if ids is None else len(ids) for ids in completion_ids]
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "rewards.py").write_text(FUNCTIONS)
    return str(tmp_path / "rewards.py")


def judged(config: JudgeConfig, tmp_path: Path) -> list[Verdict]:
    check_judge(config, [group.messages for group in GROUPS], {"answer"})
    return load_judge(config, JudgeContext(tmp_path / "scratch")).judge(GROUPS)


def several(file: str, **weights: float) -> JudgeConfig:
    functions = [{"function": f"{file}:{name}", "weight": weight} for name, weight in weights.items()]
    return JudgeConfig.model_validate({"kind": "python", "functions": functions, "memory_limit_gb": 1})


def test_one_function_gives_one_verdict_per_response(file: str, tmp_path: Path) -> None:
    verdicts = judged(JudgeConfig(kind="python", function=f"{file}:brief"), tmp_path)
    assert [(each.prompt_id, each.sample_id, each.score, each.part) for each in verdicts] == [
        ("p", 0, -1.0, ""),
        ("p", 3, -4.0, ""),
        ("p", 5, -1.0, ""),
        ("q", 0, -5.0, ""),
    ]
    assert {each.judge for each in verdicts} == {"python:rewards.brief"}


def test_several_functions_give_their_weighted_sum_and_are_stored_as_parts(file: str, tmp_path: Path) -> None:
    """2 exact + 0.5 brief: a function that returned None is left out of the sum, and its verdict says so."""
    verdicts = judged(several(file, exact=2, brief=0.5), tmp_path)
    assert scores(verdicts) == {("p", 0): 1.5, ("p", 3): -2.0, ("p", 5): 1.5, ("q", 0): -2.5}
    assert [(each.part, each.score, each.status, each.detail) for each in verdicts[-3:]] == [
        ("function: rewards.exact", None, "invalid", "the function does not apply (it returned None)"),
        ("function: rewards.brief", -5.0, "ok", ""),
        ("", -2.5, "ok", "rewards.brief -5"),
    ]
    assert verdicts[2].detail == "rewards.exact 1, rewards.brief -1"
    assert len(verdicts) == 12
    assert len({each.verdict_id for each in verdicts}) == 12


def test_a_function_that_failed_makes_the_sum_invalid_with_its_reason(file: str, tmp_path: Path) -> None:
    verdicts = judged(several(file, brief=1, fragile=1), tmp_path)
    assert ("p", 3) not in scores(verdicts)
    (conclusion,) = [each for each in verdicts if each.sample_id == 3 and not each.part]
    assert conclusion.detail == "rewards.fragile: ValueError: cannot read five (rewards.py line 6)"
    assert [each.status for each in verdicts if each.sample_id == 3] == ["ok", "invalid", "invalid"]


def test_a_response_to_which_no_function_applies_has_no_score(file: str, tmp_path: Path) -> None:
    verdicts = judged(JudgeConfig(kind="python", function=f"{file}:exact"), tmp_path)
    assert [each.score for each in verdicts] == [1.0, 0.0, 1.0, None]
    assert verdicts[-1].detail == "no function applies (rewards.exact returned None)"


def test_completion_ids_are_the_sampled_tokens(file: str, tmp_path: Path) -> None:
    verdicts = judged(JudgeConfig(kind="python", function=f"{file}:tokens"), tmp_path)
    assert [each.score for each in verdicts] == [None, None, None, 2.0]


def test_two_functions_of_one_name_are_told_apart(file: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rewards.py").write_text("def brief(response): return 1")
    functions = [{"function": f"{file}:brief"}, {"function": f"{tmp_path}/other/rewards.py:brief"}]
    verdicts = judged(JudgeConfig.model_validate({"kind": "python", "functions": functions}), tmp_path)
    assert {each.part for each in verdicts} == {"function: rewards.brief", "function: rewards.brief#2", ""}
    assert {each.judge for each in verdicts} == {"python:rewards.brief+rewards.brief#2"}


def test_a_changed_function_is_another_judge(file: str, tmp_path: Path) -> None:
    config = JudgeConfig(kind="python", function=f"{file}:brief")
    pinned = JudgeRef(config=config, digest=judge_digest(config))
    load_pinned_judge(pinned, JudgeContext(tmp_path))
    Path(file).write_text(FUNCTIONS.replace("-len", "len"))
    with pytest.raises(ValueError, match=r"judge python:.*rewards.py:brief has changed since the campaign began"):
        load_pinned_judge(pinned, JudgeContext(tmp_path))


def test_digest_follows_weights_and_arguments(file: str) -> None:
    digests = [judge_digest(several(file, brief=1)), judge_digest(several(file, brief=2))]
    given = {"function": f"{file}:brief", "arguments": {"x": 1}}
    digests.append(judge_digest(JudgeConfig.model_validate({"kind": "python", "functions": [given]})))
    digests.append(judge_digest(several(file, brief=1, fragile=1)))
    assert len(set(digests)) == 4
    assert digests[0] == judge_digest(JudgeConfig(kind="python", function=f"{file}:brief", time_limit_seconds=5))


def test_functions_of_trl_judge_as_they_are(tmp_path: Path) -> None:
    config = JudgeConfig(kind="python", function="trl.rewards:think_format_reward")
    thought = "<think>\nWhy?\n</think>\nThus."
    group = Group("p", ASK, ((0, thought), (1, "Thus.")))
    check_judge(config, [ASK], ())
    verdicts = load_judge(config, JudgeContext(tmp_path)).judge([group])
    assert [each.score for each in verdicts] == [1.0, 0.0]
    assert describe_judge(config) == "python:trl.rewards:think_format_reward"


def test_a_python_juror_votes_by_its_scores(file: str, tmp_path: Path) -> None:
    jurors = tuple(JurorConfig(kind="python", function=f"{file}:{name}") for name in ("brief", "fragile"))
    jury = JudgeConfig(kind="jury", jurors=jurors)
    check_judge(jury, [ASK], {"answer"})
    verdicts = load_judge(jury, JudgeContext(tmp_path)).judge(GROUPS[:1])
    concluded = {(each.sample_id, each.opponent_id): each.score for each in verdicts if not each.part}
    # "4" is briefer than "five", on which the other juror abstains: one vote of one, (1 + 1) / (1 + 2) as a majority
    # counts it. The two "4" are equal to both.
    assert concluded == {(0, 3): pytest.approx(2 / 3), (0, 5): 0.5, (3, 5): pytest.approx(1 / 3)}
    assert {each.part for each in verdicts} == {"", "python:rewards.brief", "python:rewards.fragile"}
    needs_answer = JudgeConfig(kind="jury", jurors=(jurors[0], JurorConfig(kind="python", function=f"{file}:exact")))
    with pytest.raises(ValueError, match="requires answer, but the prompts' rows have no other columns"):
        check_judge(needs_answer, [ASK], ())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"kind": "python"}, "kind python needs either `function`, such as my_rewards.py:score, or the list"),
        ({"kind": "python", "function": "a.py:f", "functions": [{"function": "b.py:f"}]}, "`functions`, not both"),
        ({"kind": "rule", "function": "a.py:f"}, "`function` is set but kind is rule: set `kind: python`"),
        ({"kind": "python", "function": "rewards.py"}, "'rewards.py' does not name a function: write FILE.py:NAME"),
        ({"kind": "python", "function": "rewards:"}, "does not name a function"),
        ({"kind": "python", "functions": [{"function": "a.py:f", "weight": float("nan")}]}, "finite number"),
        ({"kind": "python", "functions": [{"function": ""}]}, "is empty: write FILE.py:NAME"),
    ],
)
def test_a_judge_that_names_no_function_is_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        JudgeConfig.model_validate(settings)


def test_columns_are_read_if_a_function_may_want_them() -> None:
    python = {"kind": "python", "function": "a.py:f"}
    juries = {"kind": "jury", "jurors": [{"kind": "rule"}, python]}

    def reads(**sections: Any) -> bool:
        return CampaignConfig.model_validate({"campaign": "c", **sections}).reads_columns

    assert reads(judge=python)
    assert reads(evaluation_judge=juries)
    assert reads(constraints={"function": "a.py:f"})
    assert reads(active={"judge": python, "budget": 1})
    assert not reads(active={"judge": python})
    assert not reads()
