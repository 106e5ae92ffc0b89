"""Pairs written in a form come back from it: with any text, several turns, tools, and from every kind of file."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data.forms.fit import fitted
from components.data.forms.form import Form, canonical, features, without
from components.data.forms.registry import FORMS
from components.data.preference_file import load_seed_pairs
from components.data.row_files import is_csv, write_rows
from components.data.seed_pair import SeedPair

USER, SYSTEM = {"role": "user", "content": "Hi"}, {"role": "system", "content": "Be kind."}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}}}
CALLED = [
    USER,
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "-4 °C", "tool_call_id": "c1", "name": "weather"},
]
NAMELESS_CALL = {key: value for key, value in CALL.items() if key != "id"}
TURNS = [USER, {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "How far is the moon?"}]
PLAIN: dict[str, Any] = {"chosen": "Good.", "rejected": "Bad.", "p": None, "margin": None, "tag": None}


def pair(messages: list[dict[str, Any]] | None = None, **changes: Any) -> SeedPair:
    return SeedPair(messages or [USER], **(PLAIN | changes))


HELD: dict[str, list[SeedPair]] = {
    "pair": [pair(), pair(chosen="Zwölf\n\n\u2028Äpfel, \"rot\"; 'süß'\t👩‍🚀", rejected="e\u0301 \u200b x\r\ny")],
    "turns": [pair(TURNS)],
    "system": [pair([SYSTEM, USER]), pair([SYSTEM, *TURNS])],
    "tools": [pair([{**USER, "tools": TOOLS}])],
    "single": [pair(rejected=None), pair(chosen=None)],
    "tag": [pair(tag="style")],
    "margin": [pair(margin=2.0), pair(margin=1.0)],
    "tie": [pair(p=0.5, margin=0.0)],
    "p": [pair(p=0.75)],
    "a label against its order": [pair(p=0.25), pair(margin=-1.0)],
}
"""Pairs that have each thing, and nothing else but what every form of it holds."""


def fits(pairs: list[SeedPair], form: Form) -> list[SeedPair]:
    """Return the pairs with what else the form needs."""
    needs_margin = form.needs and not any("margin" in features(each) or each.is_tie for each in pairs)
    return [replace(each, margin=2.0) for each in pairs] if needs_margin else pairs


def written_and_read(pairs: list[SeedPair], form: Form, name: str) -> tuple[list[SeedPair], list[SeedPair]]:
    """Return the pairs that fit, as the form says them, and what is read from their file."""
    results = [(each, fitted(each, form, as_text=is_csv(Path(name)))) for each in pairs]
    good = [(each, fit) for each, fit in results if not fit.reason]
    if not good:
        return [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write_rows(path, (row for _, fit in good for row in fit.rows))
        read = load_seed_pairs(str(path), split="train").pairs
    kept = [without(part, fit.lost) for each, fit in good for part in parts(each, form)]
    return [canonical(each) for each in kept], [canonical(each) for each in read]


def parts(whole: SeedPair, form: Form) -> list[SeedPair]:
    """Return a pair as the form holds it: whole, or as two single responses."""
    if whole.is_single or "pair" in form.holds:
        return [whole]
    return [replace(whole, rejected=None), replace(whole, chosen=None)]


@pytest.mark.parametrize("kind", ["a.jsonl", "a.json.gz", "a.jsonl.zst", "a.csv", "a.tsv.gz"])
@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
def test_pairs_with_whatever_a_form_holds_come_back(form: Form, kind: str) -> None:
    pairs = [each for name in sorted(form.holds & HELD.keys()) for each in fits(HELD[name], form)]
    assert pairs
    expected, read = written_and_read(pairs, form, kind)
    assert len(expected) == sum(len(parts(each, form)) for each in pairs)
    assert read == expected


@pytest.mark.parametrize("text", ["\r", "a\rb", '"', '""', ";", "\t", "a\n", "\ufeff", "\x00", "'", "=1+1", " "])
@pytest.mark.parametrize("kind", ["a.csv", "a.tsv"])
def test_text_that_csv_could_split_comes_back(text: str, kind: str) -> None:
    pairs = [pair([{"role": "user", "content": text + "?"}], chosen=text, rejected=text + text)]
    expected, read = written_and_read(pairs, FORMS["trl-text"], kind)
    assert read == expected == pairs


@pytest.mark.parametrize("name", ["ratchet", "trl", "trl-implicit", "openai", "argilla", "label-studio"])
def test_tool_calls_and_results_come_back_with_their_ids(name: str) -> None:
    pairs = [pair([{**CALLED[0], "tools": TOOLS}, *CALLED[1:]]), pair(CALLED)]
    expected, read = written_and_read(pairs, FORMS[name], "a.jsonl")
    assert read == expected == pairs


def test_tool_calls_of_sharegpt_come_back_without_ids() -> None:
    messages = [USER, {**CALLED[1], "tool_calls": [NAMELESS_CALL]}, {"role": "tool", "content": "-4 °C"}]
    expected, read = written_and_read([pair(messages)], FORMS["sharegpt"], "a.jsonl")
    assert read == expected == [pair(messages)]
    assert "ids of tool calls" in fitted(pair(CALLED), FORMS["sharegpt"], as_text=False).reason


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if "tools" not in form.holds])
def test_tools_do_not_fit_a_form_without_them(name: str) -> None:
    (given,) = fits([pair([{**USER, "tools": TOOLS}])], FORMS[name])
    assert fitted(given, FORMS[name], as_text=False).reason == "tools"


ODD = st.sampled_from(
    [
        "",
        " spaced ",
        "\n\nHuman: a\n\nAssistant: b",
        "Human: a\n\nAssistant: b",
        '[{"role": "user", "content": "x"}]',
        '[{"from": "human", "value": "x"}]',
        '{"a": 1}',
        "[{'role': 'user', 'content': 'x'}]",
        "a\n\n<extra_id_1>User\nb",
        "<|im_start|>user",
        "N/A",
        "1.5",
        "true",
        "null",
        '"',
        "a,b;c\td|e",
        "\ufeffx",
        "\x00",
        "\r",
        "a\r\nb\n",
        "\x85\u2028",
    ]
)
TEXTS = st.one_of(
    ODD, st.text(st.characters(exclude_categories=["Cs"]), max_size=12), st.text("\n Human:Asit", max_size=9)
)


@st.composite
def messages(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw a prompt: perhaps a system message and tools, and turns that end with the user's."""
    turns = [{"role": "user", "content": draw(TEXTS)}]
    for _ in range(draw(st.integers(0, 2))):
        turns += [{"role": "assistant", "content": draw(TEXTS)}, {"role": "user", "content": draw(TEXTS)}]
    if draw(st.booleans()):
        turns.insert(0, {"role": "system", "content": draw(TEXTS)})
    if draw(st.booleans()):
        turns[0] = {**turns[0], "tools": TOOLS}
    return turns


PAIRS = st.lists(
    st.builds(
        SeedPair,
        messages=st.one_of(messages(), TEXTS.map(lambda text: [{"role": "user", "content": text}])),
        chosen=st.one_of(TEXTS, st.none()),
        rejected=TEXTS,
        p=st.sampled_from([None, 1.0, 0.75, 0.5]),
        margin=st.sampled_from([None, 0.0, 1.0, 2.0, 2.5, 1e300]),
        tag=st.one_of(st.none(), TEXTS),
        place=st.just("row 1"),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("kind", ["a.jsonl", "a.csv"])
@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.name)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pairs=PAIRS)
def test_pairs_of_any_text_come_back_or_are_refused(form: Form, kind: str, pairs: list[SeedPair]) -> None:
    """A text that a reader takes for a transcript, for messages or for nothing must not come back as another one."""
    expected, read = written_and_read(pairs, form, kind)
    assert read == expected
