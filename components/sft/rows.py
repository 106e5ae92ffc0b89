"""Demonstrations as token ids: which are trained on, which are held out, and which are left out, by reason."""

from collections import Counter
from typing import NamedTuple

from jinja2 import TemplateError

from components.config import SftConfig
from components.data.demonstrations import Demonstration, Demonstrations
from components.data.funnel import LeftOut, counted, step, too_little
from components.dpo.batches import Pair
from components.models.tokens import ChatTokenizer, NotRendered
from components.models.turns import assistant_turns
from components.runtime import progress
from components.validation.held_out import evaluation_prompts

REFUSED = "the chat template refuses the conversation"
REPORT_EVERY = 200
TAG = "demonstration"


class TokenRow(NamedTuple):
    """A conversation as token ids."""

    pair: Pair
    """What stands before the first trained turn as prompt, and all from there as the only answer."""
    trained: tuple[bool, ...]
    """Whether each token of the answer is trained on."""
    num_turns: int
    num_changed: int
    """As of `Turns`."""


class PreparedRows(NamedTuple):
    """The conversations of both sides."""

    train: list[TokenRow]
    held_out: list[TokenRow]
    left_out: dict[str, int]
    """Number of rows by the reason why they are left out, most first."""


def num_tokens(rows: list[TokenRow]) -> int:
    """Return the number of trained tokens."""
    return sum(sum(row.trained) for row in rows)


def prepare_rows(read: Demonstrations, chat: ChatTokenizer, settings: SftConfig, *, max_tokens: int) -> PreparedRows:
    """Render and tokenise the conversations, and keep some for measuring.

    All conversations with the same first prompt go to one side, chosen by content and seed. Nothing is cut: a
    conversation that the model cannot read whole is left out and counted.

    Args:
        read: The demonstrations.
        chat: The model's tokenizer and chat template.
        settings: The turns that are trained on, the share that is held out, and the seed.
        max_tokens: Longest conversation that the model reads.

    Raises:
        ValueError: No conversation is left to train on, or to measure on.
    """
    left_out = Counter(read.left_out)
    rows: dict[int, TokenRow] = {}
    for number, demonstration in enumerate(read.rows):
        row = _encoded(demonstration, chat, last_only=settings.train_on == "last", max_tokens=max_tokens)
        if isinstance(row, str):
            left_out[row] += 1
        else:
            rows[number] = row
        if (number + 1) % REPORT_EVERY == 0 or number + 1 == len(read.rows):
            progress.report(number + 1, len(read.rows), "demonstrations read")
    contents = {number: read.rows[number].first_prompt for number in rows}
    kept = evaluation_prompts(contents.values(), share=settings.eval_share, seed=settings.seed)
    held_out = [row for number, row in rows.items() if contents[number] in kept]
    train = [row for number, row in rows.items() if contents[number] not in kept]
    place = f"eval_share = {settings.eval_share:g} of {len(set(contents.values()))} prompts"
    _refuse_too_few(read.num_rows, left_out, len(train), len(held_out), place)
    return PreparedRows(train, held_out, dict(sorted(left_out.items(), key=lambda item: (-item[1], item[0]))))


def _encoded(demonstration: Demonstration, chat: ChatTokenizer, *, last_only: bool, max_tokens: int) -> TokenRow | str:
    """Return a conversation as tokens, or the reason why it is left out."""
    try:
        turns = assistant_turns(chat, demonstration.messages, last_only=last_only)
    except TemplateError:
        return REFUSED
    except NotRendered as error:
        return error.reason
    first = turns.trained.index(True)
    if first >= max_tokens:
        return f"the prompt alone fills {max_tokens} tokens"
    if len(turns.token_ids) > max_tokens:
        return f"longer than {max_tokens} tokens"
    if not first:
        return "nothing stands before the first trained token"
    pair = Pair(turns.token_ids[:first], turns.token_ids[first:], [], 1.0, demonstration.place, TAG)
    return TokenRow(pair, tuple(turns.trained[first:]), turns.num_turns, turns.num_changed)


def _refuse_too_few(num_rows: int, left_out: Counter[str], train: int, held_out: int, place: str) -> None:
    """Refuse conversations that leave none to train on, or none to measure on; `place` says how many are held out."""
    remedies = {reason: "raise max_tokens" for reason in left_out if reason.endswith(" tokens")}
    steps = [step(num_rows, "rows", counted(left_out, remedies))]
    if not train and not held_out:
        raise ValueError(
            too_little(
                "no demonstration can be used",
                steps,
                otherwise="name other demonstrations, or set chat_template_arguments, such as {enable_thinking: false}",
            )
        )
    if train and held_out:
        return
    cause = f"not held out by {place}" if train else f"held out by {place}"
    taken = LeftOut(count=train or held_out, cause=cause, remedy="name more demonstrations, or change eval_share")
    steps.append(step(train + held_out, "demonstrations", [taken]))
    raise ValueError(
        too_little(f"no demonstration is left to {'measure' if train else 'train'} on", steps, otherwise="")
    )
