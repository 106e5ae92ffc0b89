"""Checks of a pair as the model reads it: its tokens within the round's limits, and its prompt not held out."""

from collections.abc import Sequence, Set
from typing import TYPE_CHECKING

import pandas as pd
from jinja2 import TemplateError

from components.config import PolicyConfig
from components.data.messages import Messages, parse_messages
from components.data.prompts import content_key
from components.models.tokens import prompt_ids, response_ids
from components.runtime import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPORT_EVERY = 200


def semantic_reasons(
    pairs: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase", *, limits: PolicyConfig, held_out: Set[str]
) -> dict[int, set[str]]:
    """Return why rows fail, by label of the table's index; a row that passes is absent.

    Args:
        pairs: Pairs that passed the schema.
        tokenizer: The policy's tokenizer, with its chat template.
        limits: The limits on tokens of prompts and responses.
        held_out: Content keys of the held-out prompts.
    """
    failures = {}
    rows = zip(pairs.index, pairs["prompt"], pairs["chosen"], pairs["rejected"], strict=True)
    for number, (row, prompt, chosen, rejected) in enumerate(rows, 1):
        messages = parse_messages(prompt)
        answers = [text for text in (chosen, rejected) if isinstance(text, str)]
        reasons = _token_reasons(tokenizer, messages, answers, limits)
        if content_key(messages) in held_out:
            reasons.add("prompt is held out")
        if reasons:
            failures[row] = reasons
        if number % REPORT_EVERY == 0 or number == len(pairs):
            progress.report(number, len(pairs), "pairs checked")
    return failures


def _token_reasons(
    tokenizer: "PreTrainedTokenizerBase", messages: Messages, answers: Sequence[str], limits: PolicyConfig
) -> set[str]:
    """Return why the tokens of a pair, or of a single response, fail."""
    try:
        prompt = prompt_ids(tokenizer, messages)
        tokens = [response_ids(tokenizer, messages, text, max_tokens=limits.max_response_tokens) for text in answers]
    except TemplateError:
        return {"the chat template refuses the conversation"}
    except ValueError:
        return {"the prompt's tokens are no prefix of prompt and answer"}
    reasons = set()
    if len(prompt) > limits.max_prompt_tokens:
        reasons.add("prompt is longer than max_prompt_tokens")
    if not all(tokens):
        reasons.add("an answer has no tokens")
    elif len(tokens) == 2 and tokens[0] == tokens[1]:
        reasons.add("chosen equals rejected as tokens within max_response_tokens")
    return reasons
