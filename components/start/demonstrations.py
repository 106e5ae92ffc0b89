"""The demonstrations that a campaign's rounds build pairs from, as round 0 publishes them."""

import logging
from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from jinja2 import TemplateError

from components.artifacts import write_table
from components.config import HeldOutBy, PolicyConfig
from components.data.content import HeldOutContents
from components.data.demonstrated_answers import (
    DemonstratedAnswer,
    DemonstratedAnswers,
    demonstrated_answers,
)
from components.data.demonstrations import read_demonstrations
from components.data.funnel import counted, step, too_little
from components.data.messages import format_messages
from components.data.prompts import PromptSplit
from components.models.tokens import ChatTokenizer, NotRendered
from components.records import DemonstrationSource

PROMPTS = "demonstration_prompts.parquet"
"""One row per prompt, which rounds sample: prompt_id, messages."""
ANSWERS = "demonstrations.parquet"
"""One row per demonstration: prompt_id, messages, answer."""
REFUSED = "the chat template refuses the conversation"
NO_LIMIT = 2**31
"""Tokens that no answer has."""
LONG_PROMPT = "the prompt is longer than policy.max_prompt_tokens"
LONG_ANSWER = "the answer is longer than policy.max_response_tokens"
REMEDIES = {
    LONG_PROMPT: "raise policy.max_prompt_tokens",
    LONG_ANSWER: "raise policy.max_response_tokens",
}

log = logging.getLogger(__name__)


def read_source(
    source: DemonstrationSource, prompts: PromptSplit, *, system_prompt: str, held_out_by: HeldOutBy
) -> DemonstratedAnswers:
    """Read the demonstrations without those of held-out prompts.

    Raises:
        ValueError: They cannot be read, have changed, or none is left; one line with the remedy.
    """
    read = read_demonstrations(source.source, split=source.split, revision=source.revision)
    if source.digest not in ("", read.digest):
        raise ValueError(f"preferences.demonstrations = {source.source} changed while the campaign was starting")
    held_out = HeldOutContents((prompt.messages for prompt in prompts.held_out), held_out_by)
    answers = demonstrated_answers(read, system_prompt=system_prompt, held_out=held_out)
    if not answers.rows:
        _refuse_all(source.source, read.num_rows, answers.left_out)
    return answers


def publish_demonstrations(
    answers: DemonstratedAnswers, chat: ChatTokenizer, source: DemonstrationSource, policy: PolicyConfig, out: Path
) -> dict[str, Any]:
    """Write the demonstrations that the policy can read and give whole, and return their counts.

    Raises:
        ValueError: None is left; one line with the remedy.
    """
    reasons = [unusable(row, chat, policy) for row in answers.rows]
    left_out = Counter(answers.left_out) + Counter(reason for reason in reasons if reason)
    rows = [row for row, reason in zip(answers.rows, reasons, strict=True) if not reason]
    if not rows:
        _refuse_all(source.source, len(answers.rows) + sum(answers.left_out.values()), dict(left_out))
    for reason, number in left_out.items():
        remedy = f": {REMEDIES[reason]}" if reason in REMEDIES else ""
        log.warning("%d of the demonstrations are left out, because %s%s", number, reason, remedy)
    distinct = {row.prompt_id: format_messages(row.messages) for row in rows}
    write_table(out / PROMPTS, pd.DataFrame(list(distinct.items()), columns=["prompt_id", "messages"], dtype="str"))
    table = [(row.prompt_id, distinct[row.prompt_id], row.answer) for row in rows]
    write_table(out / ANSWERS, pd.DataFrame(table, columns=["prompt_id", "messages", "answer"], dtype="str"))
    return {
        "digest": source.digest,
        "answers": len(rows),
        "prompts": len(distinct),
        "left_out": dict(sorted(left_out.items(), key=lambda item: (-item[1], item[0]))),
    }


def unusable(row: DemonstratedAnswer, chat: ChatTokenizer, policy: PolicyConfig) -> str:
    """Return why the policy cannot read a prompt or give its answer whole; empty if it can.

    An answer that was cut at the limit would teach to go on without an end.
    """
    try:
        if len(chat.prompt_ids(row.messages)) > policy.max_prompt_tokens:
            return LONG_PROMPT
        tokens = chat.response_ids(row.messages, row.answer, max_tokens=NO_LIMIT)
    except TemplateError:
        return REFUSED
    except NotRendered as error:
        return error.reason
    return LONG_ANSWER if len(tokens) > policy.max_response_tokens else ""


def _refuse_all(source: str, num_rows: int, left_out: dict[str, int]) -> NoReturn:
    headline = f"no demonstration of preferences.demonstrations = {source} can be trained on"
    steps = [step(num_rows, "demonstrations", counted(left_out, REMEDIES))]
    raise ValueError(too_little(headline, steps, otherwise="name other demonstrations"))
