"""Loading prompts and splitting them by content."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import PromptsConfig
from components.data.prompts import PromptSplit, content_key, draw, load_prompts, make_prompt, split_prompts

USER = {"role": "user", "content": "Hello"}


def write_prompts(path: Path, values: list[Any], column: str = "prompt") -> str:
    path.write_text("".join(json.dumps({column: value}) + "\n" for value in values))
    return str(path)


def split(tmp_path: Path, train: list[Any], held_out: list[Any] | None = None, **knobs: Any) -> PromptSplit:
    source = write_prompts(tmp_path / "train.jsonl", train)
    held = "" if held_out is None else write_prompts(tmp_path / "held.jsonl", held_out)
    return split_prompts(PromptsConfig(train=source, held_out=held, **knobs))


def texts(prompts: Any) -> list[str]:
    return [prompt.messages[-1]["content"] for prompt in prompts]


def test_prompt_id_is_the_hash_of_the_messages() -> None:
    canonical = '[{"role": "user", "content": "Hello"}]'
    assert make_prompt([USER]).prompt_id == hashlib.sha256(canonical.encode()).hexdigest()[:16]


def test_content_key_is_the_hash_of_roles_and_plain_texts() -> None:
    """It orders held-out prompts and splits sets, so it must not change for prompts of earlier campaigns."""
    assert content_key([USER]) == hashlib.sha256(b'[["user", "hello"]]').hexdigest()


def test_prompts_of_text_and_of_messages_are_the_same(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "a.jsonl", ["Hello", [{**USER, "name": "left out"}]], column="question")
    text, messages = load_prompts(source, column="question", split="train")
    assert text == messages == make_prompt([USER])


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("  ", "line 2: the prompt is empty"),
        ([], "line 2: the prompt is empty"),
        (None, "line 2: expected text or a list of chat messages, but got null"),
        (7, "line 2: expected text or a list of chat messages, but got int"),
        ([{"role": "user"}], "line 2: message 1 is not of the form"),
        ([{"role": "user", "content": ["part"]}], "line 2: message 1 is not of the form"),
        ([{"role": "human", "content": "x"}], "line 2: message 1 has role 'human': use one of system, user, assistant"),
        ([USER, {"role": "assistant", "content": "x"}], "line 2: the prompt ends with a message of the assistant"),
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " "}],
            "line 2: the prompt's last message is empty",
        ),
    ],
)
def test_prompts_with_a_faulty_row_name_its_line(value: Any, says: str, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "a.jsonl", ["fine", value])
    with pytest.raises(ValueError, match=says):
        load_prompts(source, column="prompt", split="train")


def test_prompts_without_their_column_name_the_columns(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "id": 1}\n')
    with pytest.raises(ValueError, match=r"line 1 has no column prompt: set prompts.column to one of text, id"):
        load_prompts(str(tmp_path / "a.jsonl"), column="prompt", split="train")


def test_builtin_prompts_are_disjoint_and_all_kept() -> None:
    both = split_prompts(PromptsConfig())
    assert len(both.held_out) >= 256
    assert both.dropped_duplicates == both.dropped_held_out == 0
    assert not {content_key(p.messages) for p in both.train} & {content_key(p.messages) for p in both.held_out}
    assert load_prompts("builtin", column="unused", split="test") == list(both.held_out)


def test_builtin_prompts_of_an_unknown_split_are_refused() -> None:
    with pytest.raises(ValueError, match="the built-in prompts have no split dev: use train or test"):
        load_prompts("builtin", column="prompt", split="dev")


def test_split_with_duplicates_and_leaks_counts_what_it_drops(tmp_path: Path) -> None:
    both = split(tmp_path, ["a", "b", " A ", "b", "c\n\nc", "d"], ["B", "b ", "C C"])
    assert texts(both.train) == ["a", "d"]
    assert texts(both.held_out) == ["B", "C C"]
    assert both.dropped_duplicates == 3
    assert both.dropped_held_out == 2


LONG = "How do I repair a bicycle?"
ASKED = f"\n\nHuman: {LONG}\n\nAssistant:"
WENT_ON = f"{ASKED} With patience.\n\nHuman: And the chain?\n\nAssistant:"


def test_split_leaves_out_prompts_that_begin_or_continue_a_held_out_conversation(tmp_path: Path) -> None:
    both = split(tmp_path, [ASKED, "other"], [WENT_ON])
    assert texts(both.train) == ["other"]
    assert (both.dropped_held_out, both.dropped_conversations) == (0, 1)
    both = split(tmp_path, [WENT_ON, "other"], [LONG])
    assert texts(both.train) == ["other"]
    assert (both.dropped_held_out, both.dropped_conversations) == (0, 1)


def test_split_by_content_keeps_prompts_of_a_held_out_conversation(tmp_path: Path) -> None:
    both = split(tmp_path, [ASKED, WENT_ON], ["other", LONG], held_out_by="content")
    assert texts(both.train) == ["And the chain?"]
    assert (both.dropped_held_out, both.dropped_conversations) == (1, 0)


def test_split_keeps_conversations_that_begin_with_the_same_greeting(tmp_path: Path) -> None:
    both = split(tmp_path, ["\n\nHuman: Hi!\n\nAssistant: Hello.\n\nHuman: How are you?\n\nAssistant:"], ["Hi!"])
    assert both.dropped_conversations == 0


def test_split_that_leaves_only_held_out_conversations_says_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no prompt is left to train on.*1 x the conversation of a row"):
        split(tmp_path, [ASKED], [WENT_ON])


def test_split_without_a_held_out_source_holds_out_by_content(tmp_path: Path) -> None:
    names = [f"prompt {number}" for number in range(20)]
    forward = split(tmp_path, names, num_held_out=5)
    backward = split(tmp_path, [*reversed(names), "Prompt 3"], num_held_out=5)
    assert sorted(texts(forward.held_out)) == sorted(
        text.replace("Prompt", "prompt") for text in texts(backward.held_out)
    )
    assert len(forward.held_out) == 5
    assert sorted(texts(forward.train) + texts(forward.held_out)) == sorted(names)
    assert backward.dropped_duplicates == 1


def test_split_digest_follows_the_content_of_both_sets(tmp_path: Path) -> None:
    one = split(tmp_path, ["a", "b"], ["c"]).digest
    assert one == split(tmp_path, ["a", "b", "b"], ["c"]).digest
    assert len({one, split(tmp_path, ["a"], ["b", "c"]).digest, split(tmp_path, ["a", "b"], ["d"]).digest}) == 3


@pytest.mark.parametrize(
    ("train", "held_out", "says"),
    [
        (
            ["a", "b", "B"],
            ["A", "b"],
            r"all 2 training prompts are also held out: 3 rows of .*jsonl \(1 x the content of an earlier row\) "
            r"gave 2 prompts \(2 x the content of a row of prompts.held_out = .*jsonl\): name training prompts that",
        ),
        (
            ["a", "b"],
            None,
            r"2 of 2 are to be held out: 2 rows of .*jsonl gave 2 prompts "
            r"\(2 x held out by prompts.num_held_out = 2\): lower prompts.num_held_out",
        ),
    ],
)
def test_split_that_leaves_nothing_to_train_on_is_refused(
    train: list[str], held_out: list[str] | None, says: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=says):
        split(tmp_path, train, held_out, num_held_out=2)


def test_split_of_own_prompts_against_the_builtin_held_out_is_refused(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "train.jsonl", ["a"])
    with pytest.raises(ValueError, match=r"but prompts.held_out is builtin: name held-out prompts of the same kind"):
        split_prompts(PromptsConfig(train=source))


@given(pool=st.integers(1, 30), per_round=st.integers(1, 40), seed=st.integers(0, 5), rounds=st.integers(1, 12))
def test_draw_uses_the_pool_up_before_it_begins_again(pool: int, per_round: int, seed: int, rounds: int) -> None:
    names = [f"p{number}" for number in range(pool)]
    count = dict.fromkeys(names, 0)
    for number in range(1, rounds + 1):
        drawn = draw(names, round=number, per_round=per_round, seed=seed)
        assert len(drawn) == len(set(drawn)) == min(per_round, pool)
        for name in drawn:
            count[name] += 1
        assert max(count.values()) - min(count.values()) <= 1


def test_draw_depends_on_the_seed_and_not_on_the_order_of_the_pool() -> None:
    names = [f"p{number}" for number in range(50)]
    first = draw(names, round=3, per_round=10, seed=1)
    assert first == draw(reversed(names), round=3, per_round=10, seed=1)
    assert first != draw(names, round=3, per_round=10, seed=2)


def test_draw_of_a_second_pass_has_another_order() -> None:
    names = [f"p{number}" for number in range(50)]
    assert draw(names, round=1, per_round=50, seed=1) != draw(names, round=2, per_round=50, seed=1)


SYSTEM = {"role": "system", "content": "Be kind."}


def test_system_prompt_leads_prompts_that_have_none_and_changes_neither_split_nor_duplicates(tmp_path: Path) -> None:
    own = {"role": "system", "content": "Be brief."}
    values = ["a", "b", [SYSTEM, {"role": "user", "content": "c"}], "c", [own, {"role": "user", "content": "a"}], "d"]
    config = PromptsConfig(train=write_prompts(tmp_path / "train.jsonl", values), held_out="", num_held_out=2)
    bare, led = split_prompts(config), split_prompts(config, "Be kind.")
    assert bare.dropped_duplicates == 0, "with and without a system message are two prompts"
    assert led.dropped_duplicates == 1, "they become one, and must not be on both sides of the split"
    for prompt in (*led.train, *led.held_out):
        assert prompt.prompt_id == make_prompt(prompt.messages).prompt_id
        assert [message["role"] for message in prompt.messages] == ["system", "user"]
    said = {prompt.messages[0]["content"] for prompt in (*led.train, *led.held_out)}
    assert said == {"Be kind.", "Be brief."}
    plain = PromptsConfig(train=write_prompts(tmp_path / "plain.jsonl", list("abcdef")), held_out="", num_held_out=2)
    assert texts(split_prompts(plain).held_out) == texts(split_prompts(plain, "Be kind.").held_out)
    assert split_prompts(plain).digest != split_prompts(plain, "Be kind.").digest


def test_system_prompt_stands_before_a_prompts_tools(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "find"}}
    row = {"prompt": "a", "tools": [tool]}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"prompt": "b"}) + "\n")
    config = PromptsConfig(train=str(tmp_path / "train.jsonl"), held_out="", num_held_out=1)
    split = split_prompts(config, "Be kind.")
    (prompt,) = (prompt for prompt in (*split.train, *split.held_out) if prompt.messages[1]["content"] == "a")
    assert prompt.messages == [{**SYSTEM, "tools": [tool]}, {"role": "user", "content": "a"}]
