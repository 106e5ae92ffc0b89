"""Checks of texts, case by case: what is found, what only looks like it, and what may be shown."""

import numpy as np
import pytest

from components.checks.answers import REFUSAL
from components.checks.language import language
from components.checks.masking import CHARACTERS, excerpt
from components.checks.personal_data import find_personal_data, has_valid_luhn_digit, is_iban
from components.checks.secrets import find_secrets
from components.checks.shingles import estimated_similarity, jaccard, shingles, signatures, similarity, word_hashes
from components.checks.text_damage import MARKS, MISREAD, _damage
from components.config import ChecksConfig

KEY = "AK" + "IAQWERTYUIOPASDFGH"


@pytest.mark.parametrize(
    ("digits", "valid"), [("79927398713", True), ("79927398714", False), ("4111111111111111", True), ("0", True)]
)
def test_luhn_digit_of_known_numbers(digits: str, valid: bool) -> None:
    assert has_valid_luhn_digit(digits) is valid


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("DE89370400440532013000", True),
        ("GB82WEST12345698765432", True),
        ("DE89370400440532013001", False),
        ("DE8937040044053201300", False),
        ("ZZ89370400440532013000", False),
    ],
)
def test_iban_of_the_standards_examples(text: str, valid: bool) -> None:
    assert is_iban(text) is valid


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Ask maria.lopez@uni-kassel.de for it", "e-mail address"),
        ("Call (212) 555-7890 tonight", "telephone number"),
        ("Call +44 20 7946 0018 tonight", "telephone number"),
        ("Pay to DE89 3704 0044 0532 0130 00 now", "IBAN"),
        ("My card 4539 1488 0343 6467 expires", "card number"),
        ("SSN 536-22-8765", "social security number"),
        ("Connect to 84.120.33.9 please", "IP address"),
    ],
)
def test_personal_data_are_found(text: str, kind: str) -> None:
    assert [span.kind for span in find_personal_data(text, region="US")] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        "Write to user@example.com or info@shop.de",
        "It happened on 2024-03-17, between 1234567 and 7654321",
        "Use version 4.2.3.14 or Revision: 1.33.2.1, or 192.168.1.1 at home",
        "The card 4539 1488 0343 6468 has a wrong digit",
        "Pay to DE89 3704 0044 0532 0130 01",
        "The range 1990-1995 and 3.14159265358979",
        "a @ b and x@y",
    ],
)
def test_what_only_looks_like_personal_data_is_not_found(text: str) -> None:
    assert find_personal_data(text, region="US") == []


def test_secrets_of_documentation_are_not_found() -> None:
    assert [span.kind for span in find_secrets(f"key = {KEY}")] == ["AWS access key"]
    assert find_secrets("AK" + "IAIOSFODNN7EXAMPLE and postgres://user:password@host/db and https://a.b/c:d@e") == []


def test_excerpt_masks_secrets_and_personal_data_at_its_borders() -> None:
    text = "x " * 300 + f"key {KEY} mail jo.doe@mail-host.org " + "y " * 300
    place = text.index(KEY)
    for shift in range(-CHARACTERS, CHARACTERS, 7):
        shown = excerpt(text, place + shift, place + shift, region="US")
        assert KEY[:6] not in shown
        assert KEY[-6:] not in shown
        assert "doe@" not in shown
        assert len(shown) < CHARACTERS + 40


def test_excerpt_is_one_printable_line() -> None:
    assert excerpt("a\nb\x1b[31mc\u202ed", region="US") == "a b\ufffd[31mc\ufffdd"


@pytest.mark.parametrize("text", ["café", "It’s", "“so”", "größer", "Привет", "日本語", "naïve – so"])
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_misread_text_is_damaged_and_the_text_itself_is_not(text: str, encoding: str) -> None:
    misread = "".join(bytes([byte]).decode(encoding, errors="ignore") or chr(byte) for byte in text.encode())
    assert _damage(text) is None
    assert _damage(f"A text with {misread} in it") is not None


@pytest.mark.parametrize("text", ["»Ö«", "voilà » et", "SÃO PAULO", "Â B", "1 × 2 ± 3", "Ångström ¿Qué?", "naïve…"])
def test_rare_but_right_text_is_not_damaged(text: str) -> None:
    assert not MISREAD.search(text) or _damage(text) is None


@pytest.mark.parametrize("mark", ["<|im_start|>", "</s>", "<s>Hi", "[INST] a [/INST]", "<end_of_turn>", "<｜User｜>"])
def test_marks_of_templates_are_found(mark: str) -> None:
    assert MARKS.search(mark)


@pytest.mark.parametrize("text", ["a <| b |> c", "<s>struck</s> out", "list[INSTANCE]", "a || b", "# Heading", "x<y>z"])
def test_text_that_looks_like_a_mark_is_none(text: str) -> None:
    assert not MARKS.search(text)


@pytest.mark.parametrize(
    ("text", "refuses"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot provide medical advice.", True),
        ("As an AI language model, I don't have feelings.", True),
        ("I'm sorry to hear that. You can ask your doctor.", False),
        ("I can help with that.", False),
        ("You can't divide by zero, so I will explain.", False),
    ],
)
def test_refusals_are_told_from_regret(text: str, refuses: bool) -> None:
    assert bool(REFUSAL.match(text)) is refuses


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("They would say that this is the right way to do it, and you should know.", "en"),
        ("Der schnelle braune Fuchs springt über den faulen Hund und läuft dann weg.", "de"),
        ("for x in range(10): print(x ** 2 + 3 * y[4], z[5:6]) # 123456", ""),
        ("Paris.", ""),
        ("", ""),
    ],
)
def test_language_abstains_if_it_is_not_sure(text: str, name: str) -> None:
    assert language(text, min_confidence=0.8) == name


def test_similarity_is_the_exact_jaccard_index_of_word_triples() -> None:
    # a b c d e f / a b c d e X, with two empty words around: --a -ab abc bcd cde are shared, and three on each side
    # (def ef- f--) are not: 5 / 11.
    assert similarity(word_hashes("a b c d e f"), word_hashes("A, b; c d e X!")) == pytest.approx(5 / 11)


@pytest.mark.parametrize(("number", "is_near"), [(9, False), (14, False), (15, True)])
def test_similarity_of_one_other_word_does_not_depend_on_its_place(number: int, is_near: bool) -> None:
    """Catches prompts of a template that are near duplicates because what differs stands at the end."""
    words = [f"w{place}" for place in range(number)]
    other = [word_hashes(" ".join([*words[:place], "x", *words[place + 1 :]])) for place in range(number)]
    values = {similarity(word_hashes(" ".join(words)), each) for each in other}
    assert values == {(number - 1) / (number + 5)}
    assert (values.pop() >= ChecksConfig().duplicate_similarity) == is_near


def test_signatures_do_not_depend_on_the_texts_beside() -> None:
    texts = [word_hashes(text) for text in ("", "one", "one two", "a b c d e f", "")]
    together = signatures(texts)
    assert all(np.array_equal(signatures([text])[0], own) for text, own in zip(texts, together, strict=True))


def test_signatures_estimate_the_similarity() -> None:
    chance = np.random.default_rng(0)
    errors = []
    for replaced in (5, 20, 60) * 20:
        one = [f"w{number}" for number in chance.integers(0, 10**6, 400)]
        other = [
            f"x{n}" if place < replaced else word for place, (n, word) in enumerate(zip(range(400), one, strict=True))
        ]
        hashes = [word_hashes(" ".join(words)) for words in (one, other)]
        bands = signatures(hashes)
        exact = jaccard(shingles(hashes[0]), shingles(hashes[1]))
        errors.append(estimated_similarity(bands[:1], bands[1:])[0] - exact)
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 0.07


def test_texts_without_spaces_are_read_by_character() -> None:
    one, other = (
        "老师每天早上走过那座桥在市场上为全家人买新鲜的面包",
        "老师每天早上走过那座桥在市场上为全家人买新鲜的水果",
    )
    assert 0.5 < similarity(word_hashes(one), word_hashes(other)) < 1
