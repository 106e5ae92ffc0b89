"""The rule judge, and the registry that creates judges."""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from components.builtin.world import support_reply, train_prompts
from components.config import JudgeConfig
from components.judges import rule as rule_module
from components.judges.protocol import Group, JudgeContext
from components.judges.registry import check_judge, judge_digest, load_judge, load_pinned_judge
from components.records import JudgeRef

UNUSED = JudgeContext(Path("unused"))
PROMPT = train_prompts()[0]
GROUP = Group("p", PROMPT, ((0, "Sorry about that."), (1, ""), (2, "Sorry about that.")))


def test_rule_judge_gives_the_scores_of_its_rule() -> None:
    verdicts = load_judge(JudgeConfig(), UNUSED).judge([GROUP])
    assert [verdict.score for verdict in verdicts] == [support_reply(PROMPT, text) for _, text in GROUP.responses]
    assert {verdict.judge for verdict in verdicts} == {"rule:support_reply"}
    assert {verdict.opponent_id for verdict in verdicts} == {None}


def test_rule_that_scores_nan_gives_an_invalid_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rule_module.RULES, "broken", rule_module.Rule(lambda messages, text: math.nan, lambda: "1"))
    verdicts = load_judge(JudgeConfig(rule="broken"), UNUSED).judge([GROUP])
    assert [(verdict.status, verdict.score) for verdict in verdicts] == [("invalid", None)] * 3


def test_unknown_rule_is_refused_with_the_known_ones() -> None:
    for use in (partial(load_judge, context=UNUSED), judge_digest, check_judge):
        with pytest.raises(ValueError, match=r"judge.rule nonsense is not a rule: use support_reply"):
            use(JudgeConfig(rule="nonsense"))


def test_rule_that_cannot_judge_a_prompt_is_found_before_the_campaign() -> None:
    check_judge(JudgeConfig(), [PROMPT])
    with pytest.raises(ValueError, match="judges the built-in campaign's prompts only"):
        check_judge(JudgeConfig(), [PROMPT, [{"role": "user", "content": "What is the capital of France?"}]])


def test_rule_digest_follows_the_rule_and_its_source(monkeypatch: pytest.MonkeyPatch) -> None:
    before = judge_digest(JudgeConfig())
    assert before == judge_digest(JudgeConfig(batch_size=3))
    monkeypatch.setitem(rule_module.RULES, "same_source", rule_module.RULES["support_reply"])
    assert judge_digest(JudgeConfig(rule="same_source")) != before
    monkeypatch.setitem(rule_module.RULES, "support_reply", rule_module.Rule(support_reply, lambda: "another version"))
    assert judge_digest(JudgeConfig()) != before


def test_pinned_judge_that_changed_is_refused() -> None:
    config = JudgeConfig()
    assert load_pinned_judge(JudgeRef(config=config, digest=judge_digest(config)), UNUSED).name == "rule:support_reply"
    with pytest.raises(ValueError, match="judge rule:support_reply has changed since the campaign began"):
        load_pinned_judge(JudgeRef(config=config, digest="0" * 64), UNUSED)


def test_judges_import_no_torch() -> None:
    modules = "components.judges, components.data.prompts, components.data.preference_file"
    code = f"import sys, {modules}; raise SystemExit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
