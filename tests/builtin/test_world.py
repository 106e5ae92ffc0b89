"""The built-in world: its prompts are disjoint, and its judge is exact and gains nothing from stuffing."""

import hashlib
import itertools
import random
import subprocess
import sys

import pytest

from components.builtin.world import (
    assess,
    corpus,
    held_out_prompts,
    load_world,
    read_case,
    support_reply,
    train_prompts,
    world_digest,
)

PROMPT = [{"role": "user", "content": "Hello, my kettle arrived broken. The order is #4712."}]
PERFECT = (
    "Thank you for your message. I am sorry about your kettle. We will ship a replacement. This takes three days. "
    "Your order is #4712. Have a good day."
)
BEST = 0.4 + 1.0 + 0.8 + 1.5 + 0.6 + 1.2 + 0.4


def content(prompts: list[list[dict[str, str]]]) -> set[str]:
    return {messages[0]["content"] for messages in prompts}


def every_sentence() -> list[str]:
    """Each form with each choice for its slots, the right order number and a wrong one."""
    world = load_world()
    slots = {
        "product": world.products,
        "remedy": [remedy.phrase for remedy in world.remedies.values()],
        "days": sorted({remedy.days for remedy in world.remedies.values()}),
        "order": ["4712", "4713"],
    }
    found = []
    for form in itertools.chain.from_iterable(world.sentences.values()):
        names = [name for name in slots if f"{{{name}}}" in form]
        choices = itertools.product(*(slots[name] for name in names))
        found += [form.format(**dict(zip(names, choice, strict=True))) for choice in choices]
    return found


def test_world_imports_without_torch() -> None:
    code = (
        "import sys, components.builtin.world as w; w.train_prompts(); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prompts_are_distinct_and_many() -> None:
    train, held_out = train_prompts(), held_out_prompts()
    assert len(content(train)) == len(train) == 1536
    assert len(content(held_out)) == len(held_out) == 512


def test_held_out_prompts_share_no_text_number_or_combination_with_training() -> None:
    train, held_out = train_prompts(), held_out_prompts()
    assert not content(train) & content(held_out)
    train_cases, held_out_cases = (
        [read_case(messages) for messages in train],
        [read_case(messages) for messages in held_out],
    )
    assert not {case.order for case in train_cases} & {case.order for case in held_out_cases}
    assert not {(case.product, case.issue) for case in train_cases} & {
        (case.product, case.issue) for case in held_out_cases
    }


def test_held_out_prompts_hold_no_product_or_issue_that_training_lacks() -> None:
    train_cases, held_out_cases = [read_case(m) for m in train_prompts()], [read_case(m) for m in held_out_prompts()]
    assert (
        {case.product for case in held_out_cases}
        == {case.product for case in train_cases}
        == set(load_world().products)
    )
    assert {case.issue for case in held_out_cases} == {case.issue for case in train_cases} == set(load_world().issues)


def test_every_form_of_message_is_read_back() -> None:
    world = load_world()
    for opening, body, (name, issue) in itertools.product(
        world.messages.openings, world.messages.bodies, world.issues.items()
    ):
        for phrase in issue.phrases:
            text = f"{opening} {body.format(product='lamp', issue=phrase, order='9031')}"
            case = read_case([{"role": "system", "content": "Be kind."}, {"role": "user", "content": text}])
            assert (case.product, case.issue, case.order) == ("lamp", name, "9031"), text


def test_issues_are_told_apart_by_their_phrases() -> None:
    phrases = [phrase.lower() for issue in load_world().issues.values() for phrase in issue.phrases]
    assert not [(one, other) for one, other in itertools.permutations(phrases, 2) if one in other]


@pytest.mark.parametrize(
    "messages",
    [[], [{"role": "system", "content": "my kettle arrived broken #1"}], [{"role": "user", "content": "Hi"}]],
)
def test_judge_refuses_prompts_of_another_world(messages: list[dict[str, str]]) -> None:
    with pytest.raises(ValueError, match="use a reward model for other prompts"):
        support_reply(messages, PERFECT)


def test_corpus_covers_training_prompts_only_and_is_the_same_every_time() -> None:
    examples = corpus()
    assert content([messages for messages, _ in examples]) == content(train_prompts())
    code = "import components.builtin.world as w, hashlib; print(hashlib.sha256(repr(w.corpus()).encode()).hexdigest())"
    again = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert again.stdout.strip() == hashlib.sha256(repr(examples).encode()).hexdigest()


@pytest.fixture(scope="module")
def corpus_parts() -> list[dict[str, float]]:
    """What the judge finds in every fourth reply of the corpus."""
    return [assess(messages, reply) for messages, reply in corpus()[::4]]


def test_corpus_is_of_mixed_quality_and_seldom_perfect(corpus_parts: list[dict[str, float]]) -> None:
    scores = [sum(parts.values()) for parts in corpus_parts]
    assert sum(score >= BEST - 1e-6 for score in scores) / len(scores) < 0.01
    assert 0.5 < sum(scores) / len(scores) < 0.5 * BEST
    assert sum(score < 0 for score in scores) / len(scores) > 0.1


@pytest.mark.parametrize("kind", ["thanks", "apology", "product", "remedy", "time", "order", "closing"])
def test_corpus_has_each_good_property_in_a_fair_share_of_replies(
    kind: str, corpus_parts: list[dict[str, float]]
) -> None:
    share = sum(kind in parts for parts in corpus_parts) / len(corpus_parts)
    assert 0.25 < share < 0.75, share


def test_corpus_sentences_are_all_known_forms_but_for_cut_ones(corpus_parts: list[dict[str, float]]) -> None:
    assert not [parts for parts in corpus_parts if {"unclear", "empty"} & parts.keys()]
    assert 0.01 < sum("unfinished" in parts for parts in corpus_parts) / len(corpus_parts) < 0.1


@pytest.mark.parametrize(
    ("response", "score"),
    [
        (PERFECT, BEST),
        ("I am sorry about this.", 1.0),
        ("We apologise for the trouble with your kettle.", 1.0 + 0.8),
        ("I am sorry about your lamp.", 1.0 - 0.8),
        ("I can ship a replacement for your kettle.", 1.5 + 0.8),
        ("I can refund the price.", -1.0),
        ("It will be done in three days.", 0.6),
        ("This takes ten days.", -0.6),
        ("Your order is #4712.", 1.2),
        ("Your order is #4713.", -1.0),
        ("Your order is #471.", -1.0),
        ("Your order is #47122.", -1.0),
        ("Thank you for your message. Have a good day.", 0.8),
        ("Have a good day. Thank you for your message.", 0.0),
        ("Have a good day", -1.0),
        ("I am sorry about this. We will ship", 1.0 - 1.0),
        ("We sell many things. People like our shop.", -0.8),
        ("This is your own fault.", -1.2),
        ("I am sorry about this. We apologise for the trouble.", 1.0 - 0.6),
        ("I am sorry about kettle.", -1.0),
        ("I am sorry about your kettle kettle.", -1.0),
        ("", -2.0),
        (" \n\t", -2.0),
        ("asd", -1.0),
        ("...", -3.0),
        ("\u2603 #", -1.0),
    ],
)
def test_judge_score_worked_by_hand(response: str, score: float) -> None:
    assert support_reply(PROMPT, response) == pytest.approx(score, abs=1e-9)


def test_judge_counts_each_word_too_many() -> None:
    eight_words = "Our shop has been open for many years. "
    assert support_reply(PROMPT, eight_words * 5) == pytest.approx(5 * -0.4 + (40 - 38) * -0.05)


@pytest.mark.parametrize("number", ["# 4 7 1 2", "#4 712", "#4712 "])
def test_judge_reads_digits_with_spaces_between(number: str) -> None:
    assert support_reply(PROMPT, f"YOUR order  is {number} .") == pytest.approx(1.2)


def test_judge_reads_the_last_user_message() -> None:
    earlier = [
        {"role": "user", "content": "My lamp is two weeks late. The order is #1111."},
        {"role": "assistant", "content": "I see."},
    ]
    assert support_reply([*earlier, *PROMPT], PERFECT) == pytest.approx(BEST)


def test_every_sentence_added_to_a_perfect_reply_costs() -> None:
    sentences = [f"{part}." for part in PERFECT.removesuffix(".").split(". ")]
    for extra in every_sentence():
        for place in range(len(sentences) + 1):
            reply = " ".join([*sentences[:place], extra, *sentences[place:]])
            assert support_reply(PROMPT, reply) < BEST - 0.3, reply


def test_saying_a_sentence_again_never_pays() -> None:
    rng = random.Random(5)
    for messages, reply in corpus()[::20]:
        sentences = [part.strip() + "." for part in reply.split(".") if part.strip()]
        again = rng.choice(sentences)
        place = rng.randint(0, len(sentences))
        longer = " ".join([*sentences[:place], again, *sentences[place:]])
        assert support_reply(messages, longer) < support_reply(messages, " ".join(sentences)), longer


@pytest.mark.parametrize("slot", ["product", "remedy", "days", "order"])
def test_listing_every_answer_scores_below_saying_nothing_of_it(slot: str) -> None:
    world = load_world()
    lists = {
        "product": [f"I am sorry about your {product}." for product in world.products],
        "remedy": [f"We will {remedy.phrase}." for remedy in world.remedies.values()],
        "days": [f"This takes {remedy.days} days." for remedy in world.remedies.values()],
        "order": [f"Your order is #471{digit}." for digit in range(10)],
    }
    assert support_reply(PROMPT, " ".join(lists[slot])) < support_reply(PROMPT, "We sell many things.") - 1


def test_naming_the_right_thing_beside_a_wrong_one_scores_below_naming_it_alone() -> None:
    assert (
        support_reply(PROMPT, "We will ship a replacement.")
        > support_reply(PROMPT, "We will ship a replacement. I can trace the parcel.") + 1
    )
    assert support_reply(PROMPT, "I am sorry about your kettle.") > support_reply(
        PROMPT, "I am sorry about your lamp. We will trace the parcel for your kettle."
    )


def test_words_of_a_perfect_reply_without_its_sentences_earn_nothing() -> None:
    assert support_reply(PROMPT, PERFECT.replace(".", "")) < 0
    assert support_reply(PROMPT, "sorry kettle replacement three days #4712.") < 0
    assert support_reply(PROMPT, PROMPT[0]["content"]) < 0


def test_world_digest_is_that_of_the_file_and_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    before = world_digest()
    assert before == world_digest()
    monkeypatch.setattr("components.builtin.world.CODE_VERSION", 10**6)
    assert world_digest() != before
