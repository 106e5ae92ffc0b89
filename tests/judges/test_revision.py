"""Critique and revision over real HTTP, and the pairs that follow."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from components.config import JudgeConfig, PreferencesConfig
from components.judges.principles import Principle
from components.judges.protocol import Group, JudgeContext, Opinion, Verdict, as_part, conclude_pair, make_verdict
from components.judges.revision import Draft, Reviser, Revision
from components.judges.violations import KEPT
from components.preferences.revised_pairs import revised_pairs
from tests.judges.chat_server import ChatServer, quoted_texts

Start = Callable[..., ChatServer]
KIND, SHORT = Principle(name="kind", text="It is KIND."), Principle(name="short", text="It is SHORT.")
PROMPT = [{"role": "user", "content": "Help me."}]


def writing(request: dict[str, Any]) -> str:
    """Repeat the answer as its critique, and revise it as its first word says."""
    _, answer, *critique = quoted_texts(request)
    if not critique:
        return "" if answer == "uncriticised" else f"Wanting: {answer}"
    revisions = {"better": " better, kindly ", "same": "same\n", "empty": " "}
    return json.dumps({"revision": revisions[answer]}) if answer in revisions else "Here you are: much better!"


def reviser(server: ChatServer, tmp_path: Path) -> Reviser:
    return Reviser(JudgeConfig(kind="constitution", endpoint=server.endpoint()), JudgeContext(tmp_path))


def test_revise_writes_what_the_critique_asks_for_and_counts_what_is_none(chat_server: Start, tmp_path: Path) -> None:
    server = chat_server(writing)
    texts = ("better", "uncriticised", "same", "empty", "mumbled")
    revisions = reviser(server, tmp_path).revise([Draft(PROMPT, text, KIND) for text in texts])
    assert revisions[0] == Revision("revised", "better, kindly", "Wanting: better")
    assert [(revision.outcome, revision.text) for revision in revisions[1:]] == [
        ("unreadable", ""),
        ("unchanged", ""),
        ("empty", ""),
        ("unreadable", ""),
    ]
    assert revisions[1].detail == "no critique: the answer is empty"
    assert "it holds no JSON object" in revisions[4].detail
    assert all("It is KIND." in request["messages"][0]["content"] for request in server.requests)
    assert (
        sorted(len(quoted_texts(request)) for request in server.requests if len(request["messages"]) == 1)
        == [2] * 5 + [3] * 4
    )


class Writer:
    """Revise by a table."""

    principles: Sequence[Principle] = (KIND, SHORT)

    def __init__(self, revisions: dict[str, Revision]) -> None:
        self.revisions, self.drafts = revisions, list[Draft]()

    def revise(self, drafts: Sequence[Draft]) -> list[Revision]:
        self.drafts += drafts
        return [self.revisions.get(draft.text, Revision("revised", f"{draft.text} improved", "")) for draft in drafts]


def judged(group: Group, *, first_wins: float | None, violated: str = "") -> list[Verdict]:
    """Return a constitution's verdicts on a prompt with two responses; the second may violate a principle."""
    backward = None if first_wins is None else 1 - first_wins
    verdicts = conclude_pair("judge", group, 0, 1, forward=Opinion(first_wins), backward=Opinion(backward))
    checks = [
        make_verdict("judge", group, 1, Opinion(float(name != violated)), part=KEPT) for name in ("kind", "short")
    ]
    return verdicts + [
        as_part(check, f"principle: {name}") for check, name in zip(checks, ("kind", "short"), strict=True)
    ]


def group(name: str) -> Group:
    return Group(name, [{"role": "user", "content": name}], ((0, f"{name} one"), (1, f"{name} two")))


def test_revised_pairs_reject_the_worst_response_for_its_revision(tmp_path: Path) -> None:
    groups = [group("a"), group("b"), group("c")]
    verdicts = [
        verdict for one, wins in zip(groups, (1.0, 0.0, None), strict=True) for verdict in judged(one, first_wins=wins)
    ]
    writer = Writer({})
    pairs = revised_pairs(
        groups, verdicts, reviser=writer, judge="judge", preferences=PreferencesConfig(tag="kindness"), seed=3
    )
    assert [(row["chosen"], row["rejected"]) for row in pairs.rows] == [
        ("a two improved", "a two"),
        ("b one improved", "b one"),
    ]
    assert {(row["p"], row["margin"], row["tag"], row["judge"]) for row in pairs.rows} == {
        (1.0, None, "kindness", "judge")
    }
    concluded = {verdict.verdict_id for verdict in verdicts if not verdict.part}
    assert all(set(row["verdict_ids"]) < concluded and row["verdict_ids"] for row in pairs.rows)
    assert pairs.outcomes == {"a": "paired", "b": "paired", "c": "no_verdict"}
    assert pairs.revisions == {"revised": 2, "unchanged": 0, "empty": 0, "unreadable": 0}


def test_revised_pairs_count_a_revision_of_no_use_and_make_no_pair_of_it() -> None:
    groups = [group(name) for name in "abcd"]
    ends = dict(zip("abc", ("unchanged", "empty", "unreadable"), strict=True))
    writer = Writer({f"{name} two": Revision(outcome, "", "") for name, outcome in ends.items()})  # type: ignore[arg-type]
    verdicts = [verdict for one in groups for verdict in judged(one, first_wins=1.0)]
    pairs = revised_pairs(groups, verdicts, reviser=writer, judge="judge", preferences=PreferencesConfig(), seed=3)
    assert [row["rejected"] for row in pairs.rows] == ["d two"]
    assert pairs.outcomes == {"a": "not_revised", "b": "not_revised", "c": "not_revised", "d": "paired"}
    assert pairs.revisions == {"unchanged": 1, "empty": 1, "unreadable": 1, "revised": 1}


def test_revised_pairs_criticise_by_a_violated_principle_or_by_any() -> None:
    groups = [group(f"p{number}") for number in range(40)]
    for violated, expected in (("short", {"short"}), ("", {"kind", "short"})):
        writer = Writer({})
        verdicts = [verdict for one in groups for verdict in judged(one, first_wins=1.0, violated=violated)]
        for _ in range(2):
            revised_pairs(groups, verdicts, reviser=writer, judge="judge", preferences=PreferencesConfig(), seed=3)
        assert {draft.principle.name for draft in writer.drafts} == expected
        assert writer.drafts[:40] == writer.drafts[40:], "a resumed run asks the same"
