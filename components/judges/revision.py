"""Critique and revision: a chat model criticises an answer by a principle and writes a better one.

Bai et al. 2022, arXiv 2212.08073, section 3.1, with one critique and one revision: two questions an answer.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from components.config import JudgeSettings
from components.data.messages import Messages
from components.judges.chat.client import Chat, Question, Reply
from components.judges.principles import Principle, load_principles
from components.judges.protocol import JudgeContext
from components.judges.wording import as_text, ask_about, wording

CRITIQUE, REVISION = "critique", "revision"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"revision": {"type": "string"}}, "required": ["revision"]}


Outcome = Literal["revised", "unchanged", "empty", "unreadable"]
"""A better answer, the same one, none, or what is no answer to the question."""


class Draft(NamedTuple):
    """An answer that is to become better."""

    messages: Messages
    """The prompt."""
    text: str
    principle: Principle
    """What it is criticised by."""


class Revision(NamedTuple):
    """What became of a draft."""

    outcome: Outcome
    text: str
    """The better answer where the outcome is `revised`, else empty."""
    detail: str
    """Why there is none, or what the critique said."""


class Reviser:
    """Has answers criticised and written anew."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Reads the principles and finds the key.

        Raises:
            ValueError: One of them is not there.
        """
        self.principles = load_principles(config.principles)
        self._chat = Chat(config.endpoint, cache=context.scratch)
        self._critique, self._revision = wording(CRITIQUE), wording(REVISION)

    def revise(self, drafts: Sequence[Draft]) -> list[Revision]:
        """One revision a draft, in order.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        critiques = self._chat.ask([Question(_ask(self._critique, draft, {}), {}) for draft in drafts], "critiques")
        said = [None if reply.value is None else str(reply.value["text"]) for reply in critiques]
        criticised = [(draft, critique) for draft, critique in zip(drafts, said, strict=True) if critique is not None]
        questions = [
            Question(_ask(self._revision, draft, {"critique": critique}), SCHEMA) for draft, critique in criticised
        ]
        replies = iter(self._chat.ask(questions, "revisions"))
        return [
            Revision("unreadable", "", f"no critique: {reply.detail}")
            if critique is None
            else _read(next(replies), draft, critique)
            for draft, reply, critique in zip(drafts, critiques, said, strict=True)
        ]


def _ask(source: str, draft: Draft, more: dict[str, str]) -> Messages:
    data = {"conversation": as_text(draft.messages), "answer": draft.text, **more}
    return ask_about(source, data=data, told={"principle": draft.principle.text})


def _read(reply: Reply, draft: Draft, critique: str) -> Revision:
    if reply.value is None:
        return Revision("unreadable", "", reply.detail)
    text = reply.value["revision"].strip()
    if not text:
        return Revision("empty", "", "the revision is empty")
    if text == draft.text.strip():
        return Revision("unchanged", "", critique)
    return Revision("revised", text, critique)
