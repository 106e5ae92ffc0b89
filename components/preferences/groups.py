"""A round's prompts and responses as the groups that judges are given. Knows no judge."""

from collections import defaultdict

import pandas as pd

from components.data.messages import parse_messages
from components.judges.protocol import Group


def read_groups(prompts: pd.DataFrame, responses: pd.DataFrame) -> list[Group]:
    """One group for each prompt in the table's order, also for a prompt without responses.

    Args:
        prompts: Columns prompt_id and messages.
        responses: Columns prompt_id, sample_id and text, in any order.
    """
    texts: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, sample_id, text in zip(responses["prompt_id"], responses["sample_id"], responses["text"], strict=True):
        texts[name].append((int(sample_id), text))
    groups = [
        Group(name, parse_messages(messages), tuple(sorted(texts.pop(name, []))))
        for name, messages in zip(prompts["prompt_id"], prompts["messages"], strict=True)
    ]
    assert not texts, f"responses to prompts that were not drawn: {sorted(texts)[:3]}"
    return groups
