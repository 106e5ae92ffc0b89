"""Critique and revision: a chat model criticises an answer by a principle and writes a better one.

Bai et al. 2022, arXiv 2212.08073, section 3.1, with one critique and one revision: two questions per answer.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from components.config import JudgeSettings
from components.data.messages import Messages, format_messages
from components.judges.chat.client import Chat, Question, Reply
from components.judges.principles import Principle, load_principles
from components.judges.protocol import JudgeContext
from components.judges.wording import as_text, ask_about, wording

CRITIQUE, REVISION = "critique", "revision"
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"revision": {"type": "string"}}, "required": ["revision"]}


Outcome = Literal["revised", "unchanged", "empty", "unreadable"]
"""A better answer, the same answer, an empty answer, or a reply without a valid revision."""


class Draft(NamedTuple):
    """An answer to improve."""

    messages: Messages
    """The prompt."""
    text: str
    principle: Principle
    """The principle of the critique."""


class Revision(NamedTuple):
    """The result of revising a draft."""

    outcome: Outcome
    text: str
    """The better answer if the outcome is `revised`, else empty."""
    detail: str
    """The critique, or why there is no better answer."""


class Reviser:
    """Let the chat model criticise and rewrite answers."""

    def __init__(self, config: JudgeSettings, context: JudgeContext) -> None:
        """Read the principles and the API key.

        Raises:
            ValueError: The principles are not valid, or the key is not set.
        """
        self.principles = load_principles(config.principles)
        self._chat = Chat(config.endpoint, cache=context.scratch)
        self._critique, self._revision = wording(CRITIQUE), wording(REVISION)

    def revise(self, drafts: Sequence[Draft]) -> list[Revision]:
        """Return one revision per draft, in order.

        Raises:
            JudgeUnavailable: The endpoint does not answer.
            RoundStopped: Its budget is used up.
        """
        answers = self._chat.ask([_question(self._critique, draft, {}, {}) for draft in drafts], "critiques")
        critiques = [None if reply.value is None else str(reply.value["text"]) for reply in answers]
        criticised = [
            (draft, critique) for draft, critique in zip(drafts, critiques, strict=True) if critique is not None
        ]
        questions = [_question(self._revision, draft, {"critique": critique}, SCHEMA) for draft, critique in criticised]
        replies = iter(self._chat.ask(questions, "revisions"))
        return [
            Revision("unreadable", "", f"no critique: {reply.detail}")
            if critique is None
            else _read(next(replies), draft, critique)
            for draft, reply, critique in zip(drafts, answers, critiques, strict=True)
        ]


def _question(source: str, draft: Draft, more: dict[str, str], schema: dict[str, Any]) -> Question:
    data = {"conversation": as_text(draft.messages), "answer": draft.text, **more}
    asked = ask_about(source, data=data, instructions={"principle": draft.principle.text})
    return Question(asked, schema, prompt=format_messages(draft.messages))


def _read(reply: Reply, draft: Draft, critique: str) -> Revision:
    if reply.value is None:
        return Revision("unreadable", "", reply.detail)
    text = reply.value["revision"].strip()
    if not text:
        return Revision("empty", "", "the revision is empty")
    if text == draft.text.strip():
        return Revision("unchanged", "", critique)
    return Revision("revised", text, critique)
