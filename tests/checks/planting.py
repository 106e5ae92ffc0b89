"""Clean preference pairs with much that only looks like a defect, and defects to plant in them. All are made up."""

import base64
import json
import random
import string
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

NOUNS = (
    "garden river teacher window market engine letter mountain doctor village kitchen story bridge farmer library "
    "season ticket forest captain lesson machine pocket island painter weather journey science history battery museum "
    "orchard printer novel harbour student recipe blanket theatre compass factory meadow lantern surgeon valley"
)
VERBS = (
    "follows describes repairs measures visits replaces explains carries discovers supports improves remembers "
    "collects protects changes prepares answers observes teaches borrows examines delivers compares surprises"
)
ADJECTIVES = (
    "quiet modern careful narrow famous simple golden ordinary distant patient useful broken curious gentle hungry "
    "careless brilliant wooden crowded ancient sensible nervous cheerful reliable"
)
ADVERBS = "slowly often rarely usually quickly together again early quietly always nearly gladly"
LINKS = "because although whenever before while after until unless since though"
CLEAN_EXTRAS = (
    "It was signed on 2024-03-17 and ended on 12/05/2025 after 1234567 steps.",
    "Ein Gast sagte: »Das ist schön wie Ö«, and everybody laughed.",
    "The café of naïve André costs 3,50 € per cup – a fair price…",
    "Use version 10.12.3.4 of the tool, or open https://example.org/a?b=1 for more.",
    "Write to info@example.com, or to your.name@domain.com, if you have questions.",
    "In Python, `x = [i for i in range(10)]` gives ten numbers and x < y is a comparison.",
    "I'm sorry to hear that, and I hope that things get better soon.",
    "The order 4111111111111112 and the account 00123456789 are only numbers.",
    "The HTML <b>bold</b> and <s>struck out</s> words, and 5 <|> 3, are harmless.",
    "They said 'no way' — and “yes” — and then 👍 was all that was left.",
    "The ISBN 978-3-16-148410-0 and the score 3-2 have dashes, and 192.168.0.1 is nobody's.",
)
FOREIGN = (
    "Der alte Bauer geht jeden Morgen über die Brücke und kauft auf dem Markt frisches Brot für seine ganze Familie.",
    "Le vieux professeur traverse chaque matin le pont et achète du pain frais au marché pour toute sa famille.",
    "El viejo profesor cruza cada mañana el puente y compra pan fresco en el mercado para toda su familia.",
    "Старый учитель каждое утро идёт через мост и покупает на рынке свежий хлеб для всей своей семьи.",
    "老师每天早上走过那座桥，在市场上为全家人买新鲜的面包，然后慢慢地走回家去准备今天的课程。",
    "Il vecchio professore attraversa ogni mattina il ponte e compra del pane fresco al mercato per la famiglia.",
)


def sentence(chance: random.Random) -> str:
    """Return a sentence of some twenty words."""

    def one(words: str) -> str:
        return chance.choice(words.split())

    parts = [
        f"the {one(ADJECTIVES)} {one(NOUNS)} {one(ADVERBS)} {one(VERBS)} the {one(NOUNS)} of the {one(ADJECTIVES)} "
        f"{one(NOUNS)}"
        for _ in range(2)
    ]
    text = f"{parts[0]} {one(LINKS)} {parts[1]}."
    return text[0].upper() + text[1:]


def text(chance: random.Random, sentences: int) -> str:
    """Return a text, now and then with something that only looks like a defect."""
    parts = [sentence(chance) for _ in range(sentences)]
    if chance.random() < 0.2:
        parts.insert(chance.randrange(len(parts)), chance.choice(CLEAN_EXTRAS))
    if chance.random() < 0.05:
        parts.insert(
            0, "First things first:\n\n1. the lamp\n2. the ladder and the long rope\n\n```python\nx = 1\n```\n"
        )
    return " ".join(parts)


def clean_rows(number: int, *, seed: int) -> list[Row]:
    """Return pairs without a defect."""
    chance = random.Random(seed)
    return [
        {
            "prompt": f"Why does it matter that {text(chance, chance.randint(1, 3))}",
            "chosen": text(chance, chance.randint(3, 12)),
            "rejected": text(chance, chance.randint(3, 12)),
        }
        for _ in range(number)
    ]


def other_word(chance: random.Random, words: str) -> str:
    """Return a text with one word replaced, in other case and with other marks."""
    parts = words.split(" ")
    parts[chance.randrange(len(parts))] = "something"
    return " ".join(parts).replace(",", ";").upper() if chance.random() < 0.3 else " ".join(parts)


def inserted(chance: random.Random, row: Row, piece: str) -> Row:
    """Return a row with a piece put between two words of one of its texts."""
    side = chance.choice(("prompt", "chosen", "rejected"))
    parts = row[side].split(" ")
    place = chance.randrange(1, len(parts))
    return {**row, side: " ".join([*parts[:place], piece, *parts[place:]])}


def random_text(chance: random.Random, alphabet: str, length: int) -> str:
    return "".join(chance.choice(alphabet) for _ in range(length))


def secret(chance: random.Random) -> str:
    """Return a made-up secret; written in parts, so that no scanner of this file takes it for a leaked one."""
    letters, alnum, hexadecimal = string.ascii_letters, string.ascii_letters + string.digits, "0123456789abcdef"
    token = base64.urlsafe_b64encode(b'{"alg":"HS256"}').decode().rstrip("=")
    makers: tuple[Callable[[], str], ...] = (
        lambda: "AK" + "IA" + random_text(chance, string.ascii_uppercase + "234567", 16),
        lambda: "gh" + "p_" + random_text(chance, alnum, 36),
        lambda: "gl" + "pat-" + random_text(chance, alnum, 20),
        lambda: "xo" + "xb-" + random_text(chance, string.digits, 12) + "-" + random_text(chance, alnum, 24),
        lambda: "sk" + "_live_" + random_text(chance, alnum, 24),
        lambda: "AI" + "za" + random_text(chance, alnum, 35),
        lambda: "sk" + "-ant-api03-" + random_text(chance, alnum, 40),
        lambda: "sk" + "-proj-" + random_text(chance, alnum, 40),
        lambda: "hf" + "_" + random_text(chance, letters, 34),
        lambda: "np" + "m_" + random_text(chance, alnum, 36),
        lambda: "S" + "G." + random_text(chance, alnum, 22) + "." + random_text(chance, alnum, 43),
        lambda: "dop" + "_v1_" + random_text(chance, hexadecimal, 64),
        lambda: f"{token}.ey" + "J" + random_text(chance, alnum, 30) + "." + random_text(chance, alnum, 43),
        lambda: "-----BEGIN RSA PRIV" + "ATE KEY-----\n" + random_text(chance, alnum, 200) + "\n-----END RSA",
        lambda: "postgres://admin:" + random_text(chance, alnum, 12) + "@db.internal.net:5432/main",
    )
    return chance.choice(makers)()


def luhn(digits: str) -> str:
    """Return digits with their check digit."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return digits + str(-total % 10)


def iban(country: str, account: str) -> str:
    """Return an IBAN with its two check digits."""
    number = int("".join(str(int(character, 36)) for character in f"{account}{country}00"))
    return f"{country}{98 - number % 97:02d}{account}"


def personal(chance: random.Random) -> str:
    """Return made-up personal data."""
    digits = string.digits
    makers: tuple[Callable[[], str], ...] = (
        lambda: f"{random_text(chance, string.ascii_lowercase, 8)}.smith@{random_text(chance, 'abcdef', 6)}.org",
        lambda: f"(212) {chance.randint(200, 999)}-{chance.randint(1000, 9999)}",
        lambda: f"+49 30 {chance.randint(1000000, 9999999)}",
        lambda: iban("DE", random_text(chance, digits, 18)),
        lambda: " ".join(
            (lambda card: [card[i : i + 4] for i in range(0, 16, 4)])(luhn(f"4{chance.randrange(10**14):014d}"))
        ),
        lambda: f"{chance.randint(100, 600)}-{chance.randint(10, 99)}-{chance.randint(1000, 9999)}",
        lambda: f"84.{chance.randint(1, 250)}.{chance.randint(1, 250)}.{chance.randint(1, 250)}",
    )
    return chance.choice(makers)()


def marked(chance: random.Random, row: Row, other: Row) -> Row:
    return inserted(
        chance,
        row,
        chance.choice(
            ("<|im_end|>", "<|endoftext|>", "[INST]", "<start_of_turn>", "<|eot_id|>", "<|user|>", "[/INST]", "<<SYS>>")
        ),
    )


def damaged(chance: random.Random, row: Row, other: Row) -> Row:
    whole = chance.choice(("café", "It’s", "naïve", "“so”", "größer", "Привет", "日本語"))
    misread = "".join(bytes([b]).decode("cp1252", errors="ignore") or chr(b) for b in whole.encode())
    return inserted(chance, row, chance.choice((misread, "caf\ufffd", "b\x00d", "e\x1b[1m")))


def malformed(chance: random.Random, row: Row, other: Row) -> Row:
    return chance.choice(
        (
            {"prompt": row["prompt"], "chosen": row["chosen"]},
            {**row, "prompt": "  "},
            {**row, "p": 7},
            {**row, "margin": -1.5},
            {**row, "chosen": [{"role": "user", "content": "no answer"}]},
        )
    )


def two_prompts(chance: random.Random, row: Row, other: Row) -> Row:
    return {
        side: [{"role": "user", "content": each["prompt"]}, {"role": "assistant", "content": row[side]}]
        for side, each in (("chosen", row), ("rejected", other))
    }


def one_start(chance: random.Random, row: Row, other: Row) -> Row:
    start = text(chance, 30)[:2048]
    return {**row, "chosen": start + row["chosen"], "rejected": start + row["rejected"]}


def cut(chance: random.Random, row: Row, other: Row) -> Row:
    whole = text(chance, 6)
    open_code = whole + "\n\n```python\nfor x in y:\n    print(x)"
    middle = whole + " " + " ".join(sentence(chance).split()[: chance.randint(7, 11)])
    return {**row, "chosen": chance.choice((open_code, middle))}


def refused(chance: random.Random, row: Row, other: Row) -> Row:
    openings = (
        "I'm sorry, but I can't help with that request.",
        "I cannot provide that kind of information.",
        "As an AI language model, I do not have opinions about this.",
        "Sorry, I won't be able to help you, and I can't assist with this.",
        "Unfortunately, I am not able to provide an answer to that.",
        "I’m really sorry, but I can’t share that.",
    )
    return {**row, "chosen": f"{chance.choice(openings)} {row['chosen']}"}


DEFECTS: dict[str, Callable[[random.Random, Row, Row], Row]] = {
    "form": malformed,
    "different_prompts": two_prompts,
    "empty_answers": lambda chance, row, other: {**row, "chosen": chance.choice(("", " \n"))},
    "identical_answers": lambda chance, row, other: {**row, "rejected": row["chosen"] + chance.choice(("", "\n"))},
    "identical_when_cut": one_start,
    "near_identical_answers": lambda chance, row, other: (
        {**row, "rejected": other_word(chance, row["chosen"] + row["prompt"])}
        | {"chosen": row["chosen"] + row["prompt"]}
    ),
    "duplicate_pairs": lambda chance, row, other: dict(other),
    "contradictions": lambda chance, row, other: {
        "prompt": other["prompt"],
        "chosen": other["rejected"],
        "rejected": other["chosen"],
    },
    "near_duplicate_prompts": lambda chance, row, other: {**row, "prompt": other_word(chance, other["prompt"])},
    "near_duplicate_answers": lambda chance, row, other: {**row, "rejected": other_word(chance, other["chosen"])},
    "special_tokens": marked,
    "damaged_text": damaged,
    "wrong_language": lambda chance, row, other: {**row, chance.choice(("chosen", "rejected")): chance.choice(FOREIGN)},
    "cut_answers": cut,
    "refused_answers": refused,
    "personal_data": lambda chance, row, other: inserted(chance, row, personal(chance)),
    "secrets": lambda chance, row, other: inserted(chance, row, secret(chance)),
}
"""A function for each check that makes a defective row from a clean one and another clean one."""


def planted(check: str, *, number: int, share: float, seed: int) -> tuple[list[Row], set[int]]:
    """Return clean rows with some replaced by defective ones, and the indices of those.

    A defective row takes the place of a late row, and what it copies stands early: of copies, the first is not a
    defect.
    """
    chance = random.Random(f"{seed} {check}")
    rows = clean_rows(number, seed=seed)
    half = number // 2
    places = chance.sample(range(half, number), round(share * number))
    for copied, place in zip(chance.sample(range(half), len(places)), places, strict=True):
        rows[place] = DEFECTS[check](chance, rows[place], rows[copied])
    return rows, set(places)


def lines(rows: list[Row]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row) + "\n" for row in rows)
