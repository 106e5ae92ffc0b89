"""The campaign's prompts: loading, the split into training and held-out prompts by content, and each round's draw.

Two prompts have the same content if their messages agree in everything but white space, letter case and Unicode form.
Knows no model and no stage, and loads no machine-learning library.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from components.builtin.world import held_out_prompts, train_prompts
from components.config import BUILTIN, PromptsConfig
from components.data.columns import Claim, format_columns, read_columns, warn_of_conflicts
from components.data.content import HeldOutContents, content_key
from components.data.conversations import CONTEXT, conversation, warn_of_doubts, with_context
from components.data.funnel import LeftOut, Step, step, too_little
from components.data.messages import Messages, format_messages, with_system, without_system
from components.data.rows import Row, Rows, read_rows

BUILTIN_SPLITS: dict[str, Callable[[], list[Messages]]] = {"train": train_prompts, "test": held_out_prompts}


@dataclass(frozen=True)
class Prompt:
    """A conversation that ends with a message of the user or of a tool; its content identifies it."""

    prompt_id: str
    messages: Messages
    place: str = field(default="", compare=False)
    """Where it was read, for messages; empty for a built-in one."""
    columns: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """JSON values of the row's other columns, by name; empty if nothing reads them."""


@dataclass(frozen=True)
class PromptSplit:
    """Training and held-out prompts with no content in common, and the numbers of prompts that were dropped for it."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    dropped_duplicates: int
    """Prompts whose content appeared earlier in the same set, over both sets."""
    dropped_held_out: int
    """Training prompts whose content is held out."""
    dropped_conversations: int = 0
    """Training prompts that begin or continue a held-out conversation."""

    @property
    def sides(self) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
        """The training and the held-out prompts."""
        return self.train, self.held_out

    @property
    def digest(self) -> str:
        """sha256 over both sets, in order, and over their columns if there are any."""
        content: list[Any] = [[format_messages(prompt.messages) for prompt in side] for side in self.sides]
        if any(prompt.columns for side in self.sides for prompt in side):
            content += [[format_columns(prompt.columns) for prompt in side] for side in self.sides]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def make_prompt(messages: Messages, place: str = "", columns: Mapping[str, Any] | None = None) -> Prompt:
    """Return a conversation as a prompt that is named by its content, which its columns do not belong to."""
    return Prompt(prompt_id(messages), messages, place, columns or {})


def prompt_id(messages: Messages) -> str:
    """Return the first 16 hex digits of the sha256 of a conversation's exact content."""
    return _sha256(format_messages(messages))[:16]


def load_prompts(
    source: str, *, column: str, split: str, carries_columns: bool = False, revision: str = ""
) -> list[Prompt]:
    """Load prompts in the order of their source; duplicates stay.

    Args:
        source: `builtin`, or a source that `rows.read_rows` reads.
        column: Column that holds the prompt, in a form that `conversations.conversation` reads.
        split: Split of a data set that has splits; `train` or `test` for `builtin`.
        carries_columns: Whether the prompts have the other columns of their rows.
        revision: Hub revision of a data set of the hub.

    Raises:
        ValueError: The source cannot be read or is empty, it has no such column, or a prompt is empty or not a
            conversation.
    """
    if source == BUILTIN:
        if split not in BUILTIN_SPLITS:
            raise ValueError(f"the built-in prompts have no split {split}: use {' or '.join(BUILTIN_SPLITS)}")
        return [make_prompt(messages) for messages in BUILTIN_SPLITS[split]()]
    of_prompt = {column, *CONTEXT}
    read = read_rows(source, split=split, columns=None if carries_columns else of_prompt, revision=revision)
    warn_of_doubts(read, prompt=column, used=[column])
    others = read_columns(source, read.rows, without=of_prompt)
    prompts = [
        make_prompt(with_context(conversation(_cell(row, read, column), row.place), row), row.place, columns)
        for row, columns in zip(read.rows, others, strict=True)
    ]
    _warn_of_conflicts(source, prompts)
    return prompts


def split_prompts(
    config: PromptsConfig,
    system_prompt: str = "",
    *,
    carries_columns: bool = False,
    held_out_before: Collection[str] = (),
) -> PromptSplit:
    """Load both prompt sets and make them disjoint: a training prompt that is also held out is removed.

    So is one that begins or continues a held-out conversation, by `prompts.held_out_by`.

    Without a `held_out` source, the `num_held_out` training prompts with the lowest content keys are held out, so that
    the choice depends on neither order nor seed. Of prompts with the same content the first stays, with its columns.
    The system prompt comes last: it changes neither the choice nor which prompts are equal, but the ids, which name
    what the policy reads.

    Args:
        config: The sources.
        system_prompt: `policy.system_prompt`.
        carries_columns: Whether the prompts have the other columns of their rows.
        held_out_before: Content keys of the prompts that the campaign holds out already. They stay the held-out ones,
            whatever was added to the training prompts, if `held_out` is empty and all of them are still there.

    Raises:
        ValueError: A source is unusable, or no prompt is left to train on.
    """
    if config.held_out == BUILTIN != config.train:
        raise ValueError(
            f"prompts.train is {config.train} but prompts.held_out is {BUILTIN}: name held-out prompts of the same "
            'kind, or set prompts.held_out: "" to hold out some of the training prompts'
        )
    builtin_train = config.train == BUILTIN
    load = partial(load_prompts, column=config.column, carries_columns=carries_columns)
    loaded = load(config.train, split="train" if builtin_train else config.train_split, revision=config.train_revision)
    train = _distinct(loaded, system_prompt)
    duplicates = len(loaded) - len(train)
    copies = LeftOut(count=duplicates, cause="the content of an earlier row", remedy="name more prompts")
    read = step(len(loaded), f"rows of {config.train}", [copies])
    if config.held_out:
        builtin_held = config.held_out == BUILTIN
        loaded = load(
            config.held_out, split="test" if builtin_held else config.held_out_split, revision=config.held_out_revision
        )
        held_out = _distinct(loaded, system_prompt)
        duplicates += len(loaded) - len(held_out)
    else:
        held_out = _hold_out(train, config.num_held_out, read, held_out_before)
        train = {key: prompt for key, prompt in train.items() if key not in held_out}
    disjoint = [prompt for key, prompt in train.items() if key not in held_out]
    apart = _of_other_conversations(disjoint, held_out.values(), config, system_prompt)
    if not apart:
        of_row = f"of a row of prompts.held_out = {config.held_out}" if config.held_out else "of a held-out prompt"
        held = [
            LeftOut(count=number, cause=f"the {what} {of_row}", remedy="name training prompts that are not held out")
            for what, number in (("content", len(train) - len(disjoint)), ("conversation", len(disjoint)))
        ]
        headline = f"no prompt is left to train on, because all {len(train)} training prompts are also held out"
        raise ValueError(too_little(headline, [read, step(len(train), "prompts", held)], otherwise=""))
    trained, unseen = (tuple(_led(prompt, system_prompt) for prompt in each) for each in (apart, held_out.values()))
    return PromptSplit(trained, unseen, duplicates, len(train) - len(disjoint), len(disjoint) - len(apart))


def place_in_pass(name: str, *, seed: int, passes: int) -> str:
    """Return the key by which a pool's prompts are ordered after `passes` whole passes over it."""
    return _sha256(f"{seed}/{passes}/{name}")


def draw(pool_ids: Iterable[str], *, round: int, per_round: int, seed: int) -> list[str]:
    """Draw a round's prompts without replacement until the pool is used up, then begin again in another order.

    A round may take the last prompts of one pass and the first of the next. The next pass then puts off the prompts
    that the round already has. So no round holds a prompt twice, and the numbers of times that two prompts have been
    drawn never differ by more than one.

    Args:
        pool_ids: Prompt ids; their order does not matter.
        round: Index of the round, from 1.
        per_round: Number of prompts to draw; the whole pool if it is smaller.
        seed: The campaign's seed.
    """
    pool = sorted(set(pool_ids))
    size = min(per_round, len(pool))
    drawn: list[str] = []
    waiting: list[str] = []
    passes = 0
    for _ in range(round):
        drawn, waiting = waiting[:size], waiting[size:]
        if len(drawn) < size:
            taken = set(drawn)
            fresh = sorted(pool, key=partial(place_in_pass, seed=seed, passes=passes))
            passes += 1
            drawn += [name for name in fresh if name not in taken][: size - len(drawn)]
            taken = set(drawn[len(taken) :])
            waiting = [name for name in fresh if name not in taken]
    return drawn


def _cell(row: Row, read: Rows, column: str) -> Any:
    if column not in row.values:
        raise ValueError(f"{row.place} has no column {column}: set prompts.column to one of {', '.join(read.columns)}")
    return row.values[column]


def _distinct(prompts: Iterable[Prompt], system_prompt: str) -> dict[str, Prompt]:
    """Return the first prompt of each content, by content key.

    A system message that says what the system prompt says does not count.
    """
    by_content: dict[str, Prompt] = {}
    for prompt in prompts:
        by_content.setdefault(content_key(without_system(prompt.messages, system_prompt)), prompt)
    return by_content


def _of_other_conversations(
    train: Sequence[Prompt], held_out: Iterable[Prompt], config: PromptsConfig, system_prompt: str
) -> list[Prompt]:
    """Return the training prompts that do not give a held-out one away."""
    contents = HeldOutContents(
        (without_system(prompt.messages, system_prompt) for prompt in held_out), config.held_out_by
    )
    return [
        prompt for prompt in train if not contents.shares_conversation(without_system(prompt.messages, system_prompt))
    ]


def _led(prompt: Prompt, system_prompt: str) -> Prompt:
    """Return a prompt as the policy reads it."""
    messages = with_system(prompt.messages, system_prompt)
    return replace(prompt, prompt_id=prompt_id(messages), messages=messages)


def _warn_of_conflicts(source: str, prompts: Iterable[Prompt]) -> None:
    repeated, first_of = [], dict[str, Prompt]()
    for prompt in prompts:
        if prompt.columns and (first := first_of.setdefault(content_key(prompt.messages), prompt)) is not prompt:
            repeated.append((Claim(first.columns, first.place), Claim(prompt.columns, prompt.place)))
    warn_of_conflicts(source, repeated)


def _hold_out(train: dict[str, Prompt], number: int, read: Step, before: Collection[str]) -> dict[str, Prompt]:
    if number >= len(train):
        held = LeftOut(
            count=len(train),
            cause=f"held out by prompts.num_held_out = {number}",
            remedy="lower prompts.num_held_out or name held-out prompts in prompts.held_out",
        )
        headline = f"no prompt is left to train on, because {number} of {len(train)} are to be held out"
        raise ValueError(too_little(headline, [read, step(len(train), "prompts", [held])], otherwise=""))
    keep = len(before) == number and train.keys() >= set(before)
    return {key: train[key] for key in (sorted(before) if keep else sorted(train)[:number])}


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
