"""Read the pairs that a reward model is trained and measured on.

They are checked as validation checks pairs, and split by content.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd
import pyarrow.parquet as pq
from jinja2 import TemplateError

from components.artifacts import file_digest
from components.config import RewardModelConfig
from components.data.funnel import LeftOut, counted, step, too_little
from components.data.messages import parse_messages
from components.data.preference_file import load_seed_pairs
from components.data.prompts import content_key
from components.dpo.batches import Pair
from components.judges.reward_model_directory import conversation_ids
from components.preferences.tables import PAIR_TYPES, pair_row
from components.runtime import progress
from components.validation.held_out import evaluation_prompts
from components.validation.schema import schema_reasons

UNTAGGED = "untagged"
"""Tag of a pair whose data set has none."""
REPORT_EVERY = 200


class PairTable(NamedTuple):
    """A preference data set as rows of `pair_table`."""

    table: pd.DataFrame
    digest: str
    """Digest of the content."""
    split_earlier: int
    """Number of rows whose two conversations part before the last answer: they hold no pair."""
    left_out: Mapping[str, int] = MappingProxyType({})
    """Number of other rows that hold no pair, by reason."""


class PreparedPairs(NamedTuple):
    """Pairs as token ids, and the rows they come from, in the same order."""

    train: list[Pair]
    held_out: list[Pair]
    held_out_rows: pd.DataFrame
    excluded: dict[str, int]
    """Number of rows by the reason why they are left out; a row with several reasons counts for each."""


def read_pair_table(source: str, *, split: str) -> PairTable:
    """Read a preference data set in any form of `preference_file`, or a round's train.parquet or preferences.parquet.

    Raises:
        ValueError: It cannot be read; one line with the remedy.
    """
    path = Path(source).expanduser()
    if path.suffix == ".parquet" and path.is_file() and PAIR_TYPES.keys() <= set(pq.read_schema(path).names):
        return PairTable(pd.read_parquet(path).reset_index(drop=True), file_digest(path), 0)
    seeds = load_seed_pairs(source, split=split)
    rows = [
        pair_row(
            pair.messages,
            pair.chosen,
            pair.rejected,
            p=1.0 if pair.p is None else pair.p,
            margin=pair.margin,
            tag=UNTAGGED if pair.tag is None else pair.tag,
            judge=f"dataset:{path.name}",
            verdict_ids=[],
        )
        for pair in seeds.pairs
    ]
    return PairTable(
        pd.DataFrame(rows, columns=list(PAIR_TYPES)), seeds.digest, len(seeds.split_earlier), seeds.left_out
    )


def prepare_pairs(read: PairTable, tokenizer: Any, settings: RewardModelConfig, *, max_tokens: int) -> PreparedPairs:
    """Check the pairs, tokenise them as the judge will, and keep some prompts' pairs for measuring.

    All pairs of a prompt go to one side, chosen by content and seed. Nothing is cut: a pair that the model cannot read
    whole is left out and counted.

    Args:
        read: The data set.
        tokenizer: The reward model's tokenizer.
        settings: The share that is held out, and the seed.
        max_tokens: Longest prompt plus answer that the model reads.

    Raises:
        ValueError: No pair is left to train on, or to measure on.
    """
    reasons = schema_reasons(read.table, takes="pairs")
    excluded = Counter(reason for several in reasons.values() for reason in several)
    excluded |= {"conversations part before the last answer": read.split_earlier} if read.split_earlier else {}
    excluded |= Counter(read.left_out)
    formed = read.table.drop(index=list(reasons))
    pairs: dict[int, Pair] = {}
    for number, (row, values) in enumerate(formed.iterrows(), 1):
        pair = _encoded(int(str(row)), values, tokenizer, max_tokens)
        if isinstance(pair, str):
            excluded[pair] += 1
        else:
            pairs[int(str(row))] = pair
        if number % REPORT_EVERY == 0 or number == len(formed):
            progress.report(number, len(formed), "pairs read")
    contents = {row: content_key(parse_messages(read.table["prompt"][row])) for row in pairs}
    kept = evaluation_prompts(contents.values(), share=settings.eval_share, seed=settings.seed)
    held_out = [row for row in pairs if contents[row] in kept]
    train = [row for row in pairs if contents[row] not in kept]
    place = f"eval_share = {settings.eval_share:g} of {len(set(contents.values()))} prompts"
    num_rows = len(read.table) + read.split_earlier + sum(read.left_out.values())
    _refuse_too_few(num_rows, excluded, len(train), len(held_out), place)
    told = dict(sorted(excluded.items(), key=lambda item: (-item[1], item[0])))
    return PreparedPairs(_picked(pairs, train), _picked(pairs, held_out), read.table.loc[held_out], told)


def _encoded(row: int, values: pd.Series, tokenizer: Any, max_tokens: int) -> Pair | str:
    """Return a pair of whole conversations, or the reason why it is left out."""
    messages = parse_messages(values["prompt"])
    try:
        chosen, rejected = (conversation_ids(tokenizer, messages, values[side]) for side in ("chosen", "rejected"))
    except TemplateError:
        return "the chat template refuses the conversation"
    if max(len(chosen), len(rejected)) > max_tokens:
        return f"longer than {max_tokens} tokens"
    if chosen == rejected:
        return "chosen equals rejected as tokens"
    return Pair([], chosen, rejected, float(values["p"]), f"row {row} (prompt {values['prompt_id']})", values["tag"])


def _refuse_too_few(read: int, excluded: Counter[str], train: int, held_out: int, place: str) -> None:
    """Refuse pairs that leave none to train on, or none to measure on; `place` says how many prompts are held out."""
    longest = next((reason for reason in excluded if reason.startswith("longer than")), "")
    steps = [step(read, "rows", counted(excluded, {longest: "raise max_tokens"}))]
    if not train and not held_out:
        raise ValueError(too_little("no pair can be used", steps, otherwise="name other pairs"))
    if train and held_out:
        return
    cause = f"not held out by {place}" if train else f"held out by {place}"
    taken = LeftOut(count=train or held_out, cause=cause, remedy="name more pairs, or change eval_share")
    steps.append(step(train + held_out, "pairs", [taken]))
    raise ValueError(too_little(f"no pair is left to {'measure' if train else 'train'} on", steps, otherwise=""))


def _picked(pairs: dict[int, Pair], rows: Iterable[int]) -> list[Pair]:
    return [pairs[row] for row in rows]
