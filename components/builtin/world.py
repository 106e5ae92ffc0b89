"""The built-in campaign's world: prompts, a corpus of mixed-quality replies, and the rule that scores a reply exactly.

All words, weights and probabilities are data in conf/builtin/world.yaml. Loads no machine-learning library and knows no
model.
"""

import functools
import hashlib
import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product as combinations

import yaml
from pydantic import BaseModel, ConfigDict

from components.config.shipped import conf_path

CODE_VERSION = 1
"""Part of `world_digest`: raise it when this module's rules or draws change."""

Message = dict[str, str]


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Remedy(_Data):
    """A remedy that a reply may offer: its words, and how many days it takes."""

    phrase: str
    days: str


class Issue(_Data):
    """A problem: customers' words for it, and the name of the one remedy that helps."""

    remedy: str
    phrases: tuple[str, ...]


class Messages(_Data):
    """Parts of a customer's message; bodies hold the slots {product}, {issue} and {order}."""

    openings: tuple[str, ...]
    bodies: tuple[str, ...]


class PromptNumbers(_Data):
    """How many prompts there are, and which combinations of product and issue are held out."""

    train: int
    held_out: int
    held_out_every: int
    seed: int


class CorpusShares(_Data):
    """Probabilities of the properties of a reply in the corpus."""

    replies_per_prompt: int
    seed: int
    present: dict[str, float]
    names_product: float
    right: dict[str, float]
    filler: float
    rude: float
    repeated: float
    unfinished: float


class World(_Data):
    """Everything in world.yaml."""

    products: tuple[str, ...]
    remedies: dict[str, Remedy]
    issues: dict[str, Issue]
    messages: Messages
    sentences: dict[str, tuple[str, ...]]
    weights: dict[str, float]
    free_words: int
    prompts: PromptNumbers
    corpus: CorpusShares


@dataclass(frozen=True)
class Case:
    """Product, issue and order number of a customer's message; the issue determines the remedy."""

    product: str
    issue: str
    order: str


@functools.cache
def load_world() -> World:
    """Read world.yaml."""
    return World.model_validate(yaml.safe_load(conf_path("builtin/world.yaml").read_text(encoding="utf-8")))


def world_digest() -> str:
    """Return the sha256 of the world's data and of its rules' version, which pins judge, prompts and corpus."""
    content = conf_path("builtin/world.yaml").read_bytes()
    return hashlib.sha256(content + f"\nversion {CODE_VERSION}".encode()).hexdigest()


def train_prompts() -> list[list[Message]]:
    """Return the distinct prompts to train on, each a conversation of one user message."""
    return [_conversation(text) for text, _ in _prompt_pools()[0]]


def held_out_prompts() -> list[list[Message]]:
    """Return distinct prompts that share no order number and no pair of product and issue with a training prompt."""
    return [_conversation(text) for text, _ in _prompt_pools()[1]]


def corpus() -> list[tuple[list[Message], str]]:
    """Return replies of mixed quality to the training prompts, for the starter's supervised training.

    Each item is (conversation, reply).
    """
    return [(_conversation(text), reply) for text, reply in _corpus_texts()]


def support_reply(messages: Sequence[Mapping[str, str]], response: str) -> float:
    """Return the score of a reply to a customer: the sum of the parts that `assess` returns.

    Args:
        messages: Conversation whose last user message is a customer's message of this world.
        response: The reply; any text, including an empty one.

    Raises:
        ValueError: The last user message names no product, issue or order number of this world.
    """
    return round(sum(assess(messages, response).values()), 6)


def assess(messages: Sequence[Mapping[str, str]], response: str) -> dict[str, float]:
    """Return what a reply earns and loses, by the names of world.yaml's `weights`, without those that do not apply.

    A repeated statement earns its credit only once, and every surplus product, remedy, number and sentence costs. So
    neither listing all answers nor repeating a good one pays.
    """
    world, case = load_world(), read_case(messages)
    text = _normalised(response)
    if not text:
        return {"empty": world.weights["empty"]}
    sentences = re.findall(r"[^.!?]*[.!?]|[^.!?]+$", text)
    count: Counter[str] = Counter()
    values: dict[str, set[str]] = {"product": set(), "remedy": set(), "days": set(), "order": set()}
    kinds: list[str] = []
    for sentence in sentences:
        if sentence[-1] not in ".!?":
            count["unfinished"] += 1
            continue
        kind, slots = _parsed(sentence)
        count["repeated"] += kind in kinds and kind not in ("filler", "rude", "unclear")
        kinds.append(kind)
        for slot, value in slots.items():
            values[slot].add(value)
    for kind in ("filler", "rude", "unclear"):
        count[kind] = kinds.count(kind)
    count["thanks"] = kinds[:1] == ["thanks"]
    count["apology"] = "apology" in kinds
    count["closing"] = kinds[-1:] == ["closing"] and not count["unfinished"]
    remedy = world.remedies[world.issues[case.issue].remedy]
    for name, slot, right in (
        ("product", "product", case.product),
        ("remedy", "remedy", remedy.phrase),
        ("time", "days", remedy.days),
        ("order", "order", case.order),
    ):
        count[name] = right in values[slot]
        count[f"wrong_{name}"] = len(values[slot] - {right})
    count["extra_word"] = max(0, len(text.split()) - world.free_words)
    return {name: world.weights[name] * number for name, number in count.items() if number}


def read_case(messages: Sequence[Mapping[str, str]]) -> Case:
    """Return the case of the conversation's last user message.

    Raises:
        ValueError: There is no user message, or it names no product, issue or order number of this world.
    """
    world = load_world()
    texts = [message["content"] for message in messages if message["role"] == "user"]
    text = _normalised(texts[-1]) if texts else ""
    product = re.search(rf"\b({'|'.join(world.products)})\b", text)
    issues = [name for name, issue in world.issues.items() if any(phrase.lower() in text for phrase in issue.phrases)]
    order = re.search(r"#(\d+)", text)
    if product is None or len(issues) != 1 or order is None:
        raise ValueError(
            "the rule support_reply judges the built-in campaign's prompts only, but "
            f"{text[:80]!r} does not name one product, issue and #order of its world: "
            "use a reward model for other prompts"
        )
    return Case(product[1], issues[0], order[1])


def _normalised(text: str) -> str:
    text = " ".join(text.lower().split())
    text = re.sub(r"\s+(?=[.,!?])|(?<=#)\s+(?=\d)", "", text)
    return re.sub(r"(?<=\d)\s+(?=\d)", "", text)


def _parsed(sentence: str) -> tuple[str, dict[str, str]]:
    """Return the kind of a finished sentence and the values of its slots; the kind is `unclear` if no form matches."""
    for kind, pattern in _patterns():
        match = pattern.fullmatch(sentence.strip())
        if match:
            return kind, match.groupdict()
    return "unclear", {}


@functools.cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    world = load_world()
    slots = {
        "product": "|".join(world.products),
        "remedy": "|".join(remedy.phrase for remedy in world.remedies.values()),
        "days": "|".join(sorted({remedy.days for remedy in world.remedies.values()})),
        "order": r"\d+",
    }
    patterns = []
    for kind, forms in world.sentences.items():
        for form in forms:
            pattern = re.escape(form.lower().rstrip(".!?"))
            for slot, values in slots.items():
                pattern = pattern.replace(re.escape(f"{{{slot}}}"), f"(?P<{slot}>{values})")
            patterns.append((kind, re.compile(pattern + "[.!?]")))
    return tuple(patterns)


def _conversation(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


@functools.cache
def _prompt_pools() -> tuple[tuple[tuple[str, Case], ...], tuple[tuple[str, Case], ...]]:
    """Return training and held-out messages with their cases; every message has an order number of its own."""
    world = load_world()
    numbers = world.prompts
    rng = random.Random(numbers.seed)
    pairs = list(combinations(world.products, world.issues))
    held = [
        pair for index, pair in enumerate(pairs) if (index // len(world.issues) + index) % numbers.held_out_every == 0
    ]
    seen = [pair for pair in pairs if pair not in held]
    orders = rng.sample(
        [str(order) for order in range(1000, 10000) if len(set(str(order))) == 4], numbers.train + numbers.held_out
    )
    cases = [seen[i % len(seen)] if i < numbers.train else held[i % len(held)] for i in range(len(orders))]
    texts = [_message(world, Case(*case, order), rng) for case, order in zip(cases, orders, strict=True)]
    return tuple(texts[: numbers.train]), tuple(texts[numbers.train :])


def _message(world: World, case: Case, rng: random.Random) -> tuple[str, Case]:
    opening, body = rng.choice(world.messages.openings), rng.choice(world.messages.bodies)
    body = body.format(product=case.product, issue=rng.choice(world.issues[case.issue].phrases), order=case.order)
    return (f"{opening} {body}" if opening else body[0].upper() + body[1:]), case


@functools.cache
def _corpus_texts() -> tuple[tuple[str, str], ...]:
    world = load_world()
    rng = random.Random(world.corpus.seed)
    pool = _prompt_pools()[0]
    return tuple(
        (text, _corpus_reply(world, case, rng)) for _ in range(world.corpus.replies_per_prompt) for text, case in pool
    )


def _corpus_reply(world: World, case: Case, rng: random.Random) -> str:
    shares = world.corpus
    kinds = [kind for kind, share in shares.present.items() if rng.random() < share]
    sentences = [_sentence(world, kind, case, rng) for kind in kinds] or [rng.choice(world.sentences["filler"])]
    if rng.random() < shares.repeated:
        sentences.insert(rng.randrange(len(sentences)), rng.choice(sentences))
    while rng.random() < shares.filler:
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(world.sentences["filler"]))
    if rng.random() < shares.rude:
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(world.sentences["rude"]))
    reply = " ".join(sentences)
    if rng.random() < shares.unfinished:
        words = reply.split()
        reply = " ".join(words[: rng.randint(1, len(words))]).rstrip(".!?")
    return reply


def _sentence(world: World, kind: str, case: Case, rng: random.Random) -> str:
    """Return a sentence of a kind about the case, with the corpus' share of wrong products, remedies, days, numbers."""
    shares = world.corpus
    naming = rng.random() < shares.names_product
    forms = [form for form in world.sentences[kind] if naming == ("{product}" in form)]
    form = rng.choice(forms or world.sentences[kind])
    remedy = world.remedies[world.issues[case.issue].remedy]
    phrases = [other.phrase for other in world.remedies.values()]
    days = sorted({other.days for other in world.remedies.values()})
    place = rng.randrange(len(case.order))
    misread = [
        case.order[:place] + digit + case.order[place + 1 :] for digit in "0123456789" if digit not in case.order
    ]
    slots = {
        "product": (case.product, world.products),
        "remedy": (remedy.phrase, phrases),
        "days": (remedy.days, days),
        "order": (case.order, misread),
    }
    return form.format(
        **{slot: _filled(right, values, shares.right[slot], rng) for slot, (right, values) in slots.items()}
    )


def _filled(right: str, values: Sequence[str], share_right: float, rng: random.Random) -> str:
    return right if rng.random() < share_right else rng.choice([value for value in values if value != right])
