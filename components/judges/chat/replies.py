"""Turns an answer into a reply, says why it is not valid, and says whether it can be repaired. Knows no network."""

from typing import Any, NamedTuple

from components.data.messages import Messages
from components.judges.chat.completion import FILTERED, ONLY_A_THOUGHT, REFUSED
from components.judges.chat.form import NO_OBJECT, OPEN_THOUGHT, Reply, read_answer, repair_messages
from components.judges.chat.ledger import ChatAnswer

CUT = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", FILTERED})
"""Reasons for which an answer ends before its end."""
NO_ANSWER = "(no answer)"
"""Stands for an empty answer in the request for a repair: some endpoints refuse an empty message."""


CUT_THOUGHT = "its thought was cut"
"""How the detail of a reply begins whose thought reached the limit."""


class Given(NamedTuple):
    """The reply that an answer is."""

    reply: Reply
    complaint: str = ""
    """What a request for a repair says about it; its words are part of the key of the paid repair."""
    is_answer: bool = True
    """Whether the endpoint answered, if only in a form that cannot be read; an empty text or a thought is no answer."""
    may_be_repaired: bool = False
    """Whether it makes sense to ask for a valid answer."""

    @property
    def is_valid(self) -> bool:
        """Whether it can be used."""
        return self.reply.value is not None

    def repair(self, messages: Messages) -> Messages:
        """Return the conversation that asks for a valid answer."""
        raw = self.reply.raw if self.reply.raw.strip() else NO_ANSWER
        return repair_messages(messages, Reply(None, self.complaint, raw))

    def paid_repair(self, messages: Messages) -> Messages:
        """Return the conversation that earlier versions asked for a repair, so that their paid answers are found."""
        return repair_messages(messages, Reply(None, self.complaint, self.reply.raw))


def is_cut_thought(given: Given) -> bool:
    """Whether the limit cut the answer while the model was still thinking."""
    return given.reply.detail.startswith(CUT_THOUGHT)


def read_reply(answer: ChatAnswer, schema: dict[str, Any], *, max_tokens: int) -> Given:
    """Return the reply that an answer is.

    Args:
        answer: The answer.
        schema: As in the question.
        max_tokens: The limit that may have cut it.
    """
    finish = answer.finish.lower()
    is_cut = finish in CUT or (not finish and answer.tokens is not None and answer.tokens.output >= max_tokens)
    reply = read_answer(answer.text or "", schema, is_cut=is_cut)
    if reply.value is not None:
        return Given(reply)
    is_thought = reply.detail == OPEN_THOUGHT
    complaint = NO_OBJECT if is_thought else reply.detail
    if finish == FILTERED:
        return _nothing(reply, answer.remark or "a content filter cut the answer", complaint)
    limit = f"endpoint.max_tokens = {max_tokens}"
    if is_cut:
        complaint = f"{complaint}, and was cut at {limit}"
    if is_cut and (is_thought or answer.remark == ONLY_A_THOUGHT):
        return _nothing(reply, f"{CUT_THOUGHT} at {limit}, before an answer: raise endpoint.max_tokens", complaint)
    if is_cut and not reply.raw.strip():
        return _nothing(reply, f"{complaint}: raise endpoint.max_tokens", complaint)
    if is_thought or not reply.raw.strip():
        detail = f"{reply.detail}: {answer.remark}" if answer.remark else reply.detail
        return _nothing(reply, detail, complaint)._replace(may_be_repaired=finish != REFUSED)
    return Given(reply._replace(detail=complaint), complaint, may_be_repaired=True)


def _nothing(reply: Reply, detail: str, complaint: str) -> Given:
    return Given(reply._replace(detail=detail), complaint, is_answer=False)
