"""A pair as the model reads it: its tokens, within the round's limits, and its prompt, which must not be held out.

Answers that the policy sampled bring their tokens. Answers from outside are rendered here, once, and their tokens go
with the pair from here on.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import TemplateError

from components.config import PolicyConfig
from components.data.content import HeldOutContents
from components.data.messages import Messages, parse_messages
from components.models.tokens import ChatTokenizer, NotRendered
from components.runtime import progress

SIDES = ("chosen", "rejected")
TOKEN_COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")
REPORT_EVERY = 200

log = logging.getLogger(__name__)


class EncodedPairs(NamedTuple):
    """The pairs' tokens, and why some cannot be trained on."""

    tokens: pd.DataFrame
    """Columns prompt_ids, chosen_ids and rejected_ids by label of the table's index; null where there are none."""
    reasons: dict[int, set[str]]
    """Why rows fail, by label of the table's index; a row that passes is absent."""
    answers: dict[str, int]
    """Number of answers of rows that pass: `sampled` by the policy, or from outside and `rendered`."""


def encode(
    pairs: pd.DataFrame, chat: ChatTokenizer, *, limits: PolicyConfig, held_out: HeldOutContents
) -> EncodedPairs:
    """Return the tokens of pairs that passed the schema.

    Args:
        pairs: The pairs; without the columns of tokens, all of them are rendered.
        chat: The policy's tokenizer.
        limits: The limits on tokens of prompts and responses.
        held_out: The held-out prompts.
    """
    rows: list[dict[str, list[int] | None]] = []
    failures: dict[int, set[str]] = {}
    answers: Counter[str] = Counter({"sampled": 0, "rendered": 0})
    first_details: dict[str, str] = {}
    for number, (label, row) in enumerate(zip(pairs.index, pairs.to_dict("records"), strict=True), 1):
        messages = parse_messages(row["prompt"])
        tokens: dict[str, list[int] | None] = dict.fromkeys(TOKEN_COLUMNS)
        reasons = set()
        try:
            tokens = _tokens(row, messages, chat, limits)
        except TemplateError:
            reasons.add("the chat template refuses the conversation")
        except NotRendered as error:
            reasons.add(error.reason)
            first_details.setdefault(error.reason, str(error))
        else:
            reasons |= _token_reasons(tokens, row, limits)
        leak = held_out.reason(messages)
        if leak:
            reasons.add(leak)
        rows.append(tokens)
        if reasons:
            failures[label] = reasons
        else:
            read = [side for side in SIDES if tokens[f"{side}_ids"]]
            answers.update("sampled" if _has_tokens(row, side) else "rendered" for side in read)
        if number % REPORT_EVERY == 0 or number == len(pairs):
            progress.report(number, len(pairs), "pairs checked")
    for reason, detail in first_details.items():
        count = sum(reason in reasons for reasons in failures.values())
        log.warning(
            "%d pairs are quarantined because of their chat template; the first: %s. Write the answers as the model "
            "would, or set policy.chat_template_arguments (such as enable_thinking: false)",
            count,
            detail,
        )
    return EncodedPairs(pd.DataFrame(rows, index=pairs.index, columns=list(TOKEN_COLUMNS)), failures, dict(answers))


def _has_tokens(row: Mapping[Any, Any], column: str) -> bool:
    """Whether the policy sampled an answer, or read a prompt, as these tokens."""
    tokens = row.get(f"{column}_ids")
    return tokens is not None and not isinstance(tokens, float)  # pandas writes NaN for null


def _tokens(
    row: Mapping[Any, Any], messages: Messages, chat: ChatTokenizer, limits: PolicyConfig
) -> dict[str, list[int] | None]:
    """Return a pair's tokens by column, sampled or rendered; an answer that it has not is None."""

    def sampled(column: str) -> list[int]:
        return [int(token) for token in row[f"{column}_ids"]]

    tokens: dict[str, list[int] | None] = {
        "prompt_ids": sampled("prompt") if _has_tokens(row, "prompt") else chat.prompt_ids(messages)
    }
    most = limits.max_response_tokens
    for side in SIDES:
        if _has_tokens(row, side):
            tokens[f"{side}_ids"] = sampled(side)[:most]
        else:
            text = row[side]
            tokens[f"{side}_ids"] = (
                chat.response_ids(messages, text, max_tokens=most) if isinstance(text, str) else None
            )
    return tokens


def _token_reasons(tokens: Mapping[str, list[int] | None], row: Mapping[Any, Any], limits: PolicyConfig) -> set[str]:
    """Return why the tokens of a pair, or of a single response, fail."""
    reasons = set()
    if len(tokens["prompt_ids"] or ()) > limits.max_prompt_tokens:
        reasons.add("prompt is longer than max_prompt_tokens")
    answers = [tokens[f"{side}_ids"] for side in SIDES if isinstance(row[side], str)]
    if not all(answers):
        reasons.add("an answer has no tokens")
    elif len(answers) == 2 and answers[0] == answers[1]:
        reasons.add("chosen equals rejected as tokens within max_response_tokens")
    return reasons
