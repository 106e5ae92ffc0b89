"""The door of validation: every pair goes to training, to evaluation, or to quarantine with its reasons.

This round's pairs come before the replayed ones, so that of two equal pairs the replayed one is quarantined. All pairs
of a prompt go to the same side, and a prompt that is replayed into training is never used for evaluation.
"""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from components.artifacts import read_table, write_json, write_table
from components.data.content import HeldOutContents, content_key
from components.data.messages import parse_messages
from components.models.tokens import load_chat
from components.records import CHECK_EXAMPLES, Artifact, DataRejected, ValidateRequest
from components.validation.data_checks import as_json, check_round, examples_of, refuse_failed
from components.validation.gates import Gates
from components.validation.held_out import evaluation_prompts
from components.validation.schema import COLUMNS, schema_reasons
from components.validation.semantics import TOKEN_COLUMNS, EncodedPairs, encode

TRAIN, EVAL, QUARANTINE = "train", "eval", "quarantine"

log = logging.getLogger(__name__)


def run(request: ValidateRequest, out: Path) -> None:
    """Write `train.parquet`, `eval.parquet`, `quarantine.parquet` and `validation.json`.

    If the data checks run, also `check_examples.parquet`: a table, as MLflow gets every JSON file of a stage and texts
    may have to stay here.

    Raises:
        DataRejected: Too large a share of this round's pairs is quarantined, too few are left, or a data check failed
            that is enforced; the files are already written.
    """
    pairs, received = _all_pairs(request)
    replayed = len(pairs) - received
    failed = schema_reasons(pairs, takes=request.takes)
    encoded = _encoded(pairs.drop(index=list(failed)), request)
    pairs = _with_tokens(pairs, encoded.tokens)
    reasons = failed | encoded.reasons
    sides = _sides(pairs, received, reasons.keys(), request)
    pairs["reason"] = pd.Series(["; ".join(sorted(reasons.get(row, ()))) for row in pairs.index], dtype="str")
    for side, name in ((TRAIN, "train.parquet"), (EVAL, "eval.parquet")):
        write_table(out / name, pairs[sides == side].drop(columns="reason"))
    write_table(out / "quarantine.parquet", pairs[sides == QUARANTINE])

    own_quarantined = sum(row < received for row in reasons)
    counts: dict[str, Any] = {
        "received": received,
        "replayed": replayed,
        "train": int((sides == TRAIN).sum()),
        "eval": int((sides == EVAL).sum()),
        "quarantined": len(reasons),
        "answers": encoded.answers,
        "reasons": dict(Counter(reason for row in sorted(reasons) for reason in sorted(reasons[row])).most_common()),
        "quarantine_share": own_quarantined / received if received else None,
    }
    checked = None
    if request.validation.data_checks != "off":
        checked = check_round(pairs[:received], request.checks)
        counts["checks"] = as_json(checked)
        write_table(out / CHECK_EXAMPLES, examples_of(checked))
    if received + replayed != counts["train"] + counts["eval"] + counts["quarantined"]:
        raise AssertionError(f"the counts do not add up: {counts}")
    write_json(out / "validation.json", counts)
    log.info(
        "%d pairs to train on, %d to evaluate on, %d quarantined",
        counts["train"],
        counts["eval"],
        counts["quarantined"],
    )
    own = slice(received)
    gates = Gates(
        request,
        received=received,
        reasons=Counter(reason for row in reasons if row < received for reason in sorted(reasons[row])),
        quarantined=own_quarantined,
        kept_for_evaluation=int((sides[own] == EVAL).sum()),
        trained=int((sides[own] == TRAIN).sum()),
    )
    gates.check(pairs[sides == TRAIN])
    if request.validation.data_checks == "enforce":
        refuse_failed(checked)


def _all_pairs(request: ValidateRequest) -> tuple[pd.DataFrame, int]:
    """Return this round's pairs followed by the replayed ones, and the number of this round's pairs."""
    own = _read_pairs(request.preferences)
    own["origin_round"] = request.round
    tables = [own]
    for artifact in request.replayed:
        table = _read_pairs(artifact)
        # Pairs that the round itself replayed are older than the window, or come with the table of their own round.
        tables.append(table[table["origin_round"] == table["origin_round"].max()])
    pairs = pd.concat(tables, ignore_index=True)
    pairs["weight"] = age_weights(pairs["origin_round"], round=request.round, decay=request.validation.replay_decay)
    return pairs, len(own)


def age_weights(origin_rounds: pd.Series, *, round: int, decay: float) -> pd.Series:
    """Return the weight of each pair in the loss: decay ** age.

    Args:
        origin_rounds: Round of origin of each pair.
        round: This round; its own pairs have age 0 and weight 1.
        decay: Factor per round of age, in (0, 1].
    """
    return decay ** (round - origin_rounds).astype("float64")


def _read_pairs(artifact: Artifact) -> pd.DataFrame:
    table = read_table(artifact)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DataRejected(
            f"{artifact.path} is not a table of preference pairs: it lacks the columns {', '.join(missing)}"
        )
    return table


def _encoded(formed: pd.DataFrame, request: ValidateRequest) -> EncodedPairs:
    """Return the tokens of the pairs that passed the schema."""
    prompts = (parse_messages(messages) for messages in read_table(request.held_out)["messages"])
    held_out = HeldOutContents(prompts, request.held_out_by)
    chat = load_chat(request.policy, request.limits)
    return encode(formed, chat, limits=request.limits, held_out=held_out)


def _with_tokens(pairs: pd.DataFrame, tokens: pd.DataFrame) -> pd.DataFrame:
    """Return the pairs with their tokens; a pair that failed the schema has none."""
    columns = {name: tokens[name].reindex(pairs.index) for name in TOKEN_COLUMNS}
    return pairs.drop(columns=[name for name in TOKEN_COLUMNS if name in pairs]).assign(**columns)


def _sides(pairs: pd.DataFrame, received: int, failed: Iterable[int], request: ValidateRequest) -> pd.Series:
    """Return the side of each pair: training, evaluation or quarantine."""
    sides = pd.Series(TRAIN, index=pairs.index, dtype="str")
    sides[list(failed)] = QUARANTINE
    passed = sides != QUARANTINE
    contents = pairs.loc[passed, "prompt"].map(lambda prompt: content_key(parse_messages(prompt)))
    is_own = contents.index < received
    free = set(contents[is_own]) - set(contents[~is_own])
    chosen = evaluation_prompts(free, share=request.validation.eval_share, seed=request.seed)
    sides[contents.index[is_own & contents.isin(chosen)]] = EVAL
    return sides
