"""Converting files: what is written, what is counted, what is refused, and what a failure leaves behind."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from trl.data_utils import is_conversational
from trl.trainer.utils import remove_none_values

from components.data import parquet_rows, row_files
from components.data.forms.convert import convert
from components.data.forms.registry import FORMS
from components.data.preference_file import load_seed_pairs
from components.data.rows import read_rows
from components.runtime import progress

HI = [{"role": "user", "content": "Hi"}]
GOOD, BAD = [{"role": "assistant", "content": "Hello!"}], [{"role": "assistant", "content": "What?"}]
PAIR: dict[str, Any] = {"prompt": "Hi", "chosen": "Hello!", "rejected": "What?"}
CHAT = {"prompt": HI, "chosen": GOOD, "rejected": BAD}
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def written(folder: Path, *rows: dict[str, Any], name: str = "in.jsonl") -> str:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [row.values for row in read_rows(str(path), split="train", columns=None).rows]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("trl", [CHAT]),
        ("trl-text", [PAIR]),
        ("trl-implicit", [{"chosen": HI + GOOD, "rejected": HI + BAD}]),
        (
            "kto",
            [
                {"prompt": HI, "completion": GOOD, "label": True},
                {"prompt": HI, "completion": BAD, "label": False},
            ],
        ),
        ("hh", [{name: f"\n\nHuman: Hi\n\nAssistant: {PAIR[name]}" for name in ("chosen", "rejected")}]),
        ("openai", [{"input": {"messages": HI}, "preferred_output": GOOD, "non_preferred_output": BAD}]),
        (
            "sharegpt",
            [
                {
                    "conversations": [{"from": "human", "value": "Hi"}],
                    "chosen": {"from": "gpt", "value": "Hello!"},
                    "rejected": {"from": "gpt", "value": "What?"},
                }
            ],
        ),
    ],
)
def test_conversion_writes_the_rows_of_the_form(target: str, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    conversion = convert(written(tmp_path, PAIR), out, target=target)
    assert rows_of(out) == expected
    assert (conversion.source.name, conversion.num_pairs, conversion.num_written) == ("trl-text", 1, 1)
    assert conversion.num_rows_written == len(expected)


RATED = PAIR | {"margin": 2}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            "ultrafeedback",
            [
                {
                    "instruction": "Hi",
                    "completions": [
                        {"response": "Hello!", "fine-grained_score": 2.0},
                        {"response": "What?", "fine-grained_score": 0.0},
                    ],
                }
            ],
        ),
        (
            "helpsteer2",
            [
                {"prompt": "Hi", "response": "Hello!", "helpfulness": 2},
                {"prompt": "Hi", "response": "What?", "helpfulness": 0},
            ],
        ),
        (
            "helpsteer3",
            [{"context": HI, "response1": "Hello!", "response2": "What?", "overall_preference": -2}],
        ),
    ],
)
def test_conversion_writes_the_margin_as_ratings(target: str, expected: list[dict[str, Any]], tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    convert(written(tmp_path, RATED), out, target=target)
    assert rows_of(out) == expected


@pytest.mark.parametrize(
    "name", ["o.jsonl", "o.ndjson.gz", "o.json", "o.json.zst", "o.csv", "o.tsv.gz", "o.csv.zst", "o.parquet"]
)
def test_conversion_to_every_kind_of_file_is_the_same_twice(name: str, tmp_path: Path) -> None:
    rows = [PAIR | {"prompt": f'"{number}";\n{number}'} for number in range(40)]
    source, out = written(tmp_path, *rows), tmp_path / name
    convert(source, out, target="trl")
    once = out.read_bytes()
    convert(source, out, target="trl")
    assert out.read_bytes() == once
    assert load_seed_pairs(str(out), split="train").pairs == load_seed_pairs(source, split="train").pairs
    assert [path.name for path in tmp_path.iterdir() if path.name not in (name, "in.jsonl")] == []


def test_conversion_counts_what_the_form_does_not_hold(tmp_path: Path) -> None:
    named = [{"role": "user", "content": "Hi", "name": "ann", "weight": 0.5}]
    rows = [
        PAIR | {"p": 0.8, "margin": 1.5, "tag": "style", "source": "web"},
        PAIR | {"p": 1.0, "prompt": named},
        PAIR | {"p": 0.5},
    ]
    out = tmp_path / "out.jsonl"
    conversion = convert(written(tmp_path, *rows), out, target="trl")
    assert conversion.source.name == "ratchet"
    assert dict(conversion.lost) == {"p": 1, "margin": 1, "tag": 1, "columns": 1}
    assert conversion.lost_columns == ("source",)
    assert dict(conversion.skipped) == {"a tie": 1}
    assert conversion.unread == {"name": 1, "weight": 1}
    assert rows_of(out) == [CHAT, CHAT]


def test_conversion_of_two_scores_keeps_them_beside_their_difference(tmp_path: Path) -> None:
    """The margin is read from them, so they looked as if they were read too, and went without a word."""
    row = CHAT | {"score_chosen": 8.5, "score_rejected": 6.0}
    source, out = written(tmp_path, row), tmp_path / "out.jsonl"
    convert(source, out, target="ratchet")
    assert rows_of(out) == [row | {"margin": 2.5}]
    conversion = convert(source, out, target="trl")
    assert (dict(conversion.lost), conversion.lost_columns) == (
        {"margin": 1, "columns": 1},
        ("score_chosen", "score_rejected"),
    )


def test_conversion_to_our_own_form_keeps_everything(tmp_path: Path) -> None:
    row = {**CHAT, "p": 0.8, "margin": 1.5, "tag": "style", "tools": TOOLS, "source": "web", "ids": [1, None]}
    single = {"prompt": HI, "completion": GOOD, "label": True}
    out = tmp_path / "out.jsonl"
    conversion = convert(written(tmp_path, row, single), out, target="ratchet")
    assert not conversion.lost
    assert rows_of(out) == [row, single]


@pytest.mark.parametrize(
    ("row", "target", "reason"),
    [
        (CHAT | {"tools": TOOLS}, "hh", "tools"),
        (CHAT | {"system": "Be kind."}, "hh", "a system message"),
        (CHAT | {"prompt": [*HI, *GOOD, *HI]}, "trl-text", "several turns"),
        (CHAT | {"system": "Be kind.", "tools": TOOLS}, "helpsteer2", "a system message and tools and no margin"),
        ({"prompt": HI, "completion": GOOD, "label": True}, "trl", "a single response"),
        (PAIR, "ultrafeedback", "no margin"),
        (PAIR | {"p": 0.1}, "trl", "a label against its order"),
        (PAIR | {"p": 7}, "ratchet", "a p outside of 0 to 1"),
        (PAIR | {"margin": math.inf}, "ratchet", "an infinite margin"),
        (PAIR | {"margin": 2.5}, "helpsteer3", r"what its reader refuses \(overall_preference is -2.5"),
        (PAIR | {"chosen": " spaced"}, "hh", "spaces or line breaks at the ends of a turn"),
        (CHAT | {"prompt": [HI[0] | {"content": '[{"role": "user", "content": "x"}]'}]}, "trl-text", "a text that"),
    ],
)
def test_conversion_refuses_what_would_change_the_pair_or_skips_it(
    row: dict[str, Any], target: str, reason: str, tmp_path: Path
) -> None:
    good = PAIR | ({"margin": 1} if FORMS[target].needs else {})
    source, out = written(tmp_path, good, row), tmp_path / "out.jsonl"
    with pytest.raises(
        ValueError, match=rf"in.jsonl line 2 has {reason}.*, which the form {target} cannot hold: choose"
    ):
        convert(source, out, target=target)
    assert not out.exists()
    conversion = convert(source, out, target=target, unfit="skip")
    assert sum(conversion.skipped.values()) == conversion.num_written == 1
    with pytest.raises(ValueError, match=rf"no pair can be written in the form {target} \(1 x {reason}"):
        convert(written(tmp_path, row), out, target=target, unfit="skip")


def test_conversion_to_openai_refuses_tool_calls_without_ids(tmp_path: Path) -> None:
    """Its interface asks for them; a file without them fails after the upload."""
    calling = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    source = written(tmp_path, CHAT | {"prompt": [*HI, calling, {"role": "tool", "content": "1", "tool_call_id": "c"}]})
    with pytest.raises(ValueError, match=r"line 1 has a tool call or a result without its id, which the form openai"):
        convert(source, tmp_path / "out.jsonl", target="openai")


def test_conversion_of_a_round_s_table_keeps_the_tools(tmp_path: Path) -> None:
    """Its prompts are JSON text whose first message holds the tools; they were dropped."""
    path = tmp_path / "preferences.parquet"
    prompt = json.dumps([{**HI[0], "tools": TOOLS}])
    pq.write_table(pa.Table.from_pylist([PAIR | {"prompt": prompt, "p": 1.0, "margin": 2.0, "tag": "style"}]), path)
    conversion = convert(str(path), tmp_path / "out.jsonl", target="trl")
    assert rows_of(tmp_path / "out.jsonl") == [CHAT | {"tools": TOOLS}]
    assert conversion.unread == {}


def test_conversion_warns_of_columns_on_which_answers_may_depend(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    convert(written(tmp_path, PAIR | {"context": "A greeting."}), tmp_path / "out.jsonl", target="trl")
    assert "ignoring the columns context" in caplog.text


def test_conversion_to_csv_refuses_an_empty_text(tmp_path: Path) -> None:
    """An empty cell is a missing one: the pair would come back without its answer."""
    source = written(tmp_path, PAIR | {"rejected": ""})
    with pytest.raises(ValueError, match=r"line 1 has an empty text, which a CSV cell cannot tell"):
        convert(source, tmp_path / "out.csv", target="trl-text")
    convert(source, tmp_path / "out.csv", target="trl")
    assert load_seed_pairs(str(tmp_path / "out.csv"), split="train").pairs[0].rejected == ""


def test_conversion_reads_parquet_and_names_an_unknown_form(tmp_path: Path) -> None:
    path = tmp_path / "in.parquet"
    pq.write_table(pa.Table.from_pylist([CHAT | {"margin": 1.0}]), path)
    assert convert(str(path), tmp_path / "out.jsonl", target="helpsteer3").source.name == "ratchet"
    other = written(tmp_path, {"question": "Hi", "good": "x"})
    with pytest.raises(
        ValueError, match=r"its form is not known by its columns \(question, good\): rename them, or name"
    ):
        convert(other, tmp_path / "out.jsonl", target="trl")
    with pytest.raises(ValueError, match=r"in.jsonl line 1 has no chosen"):
        convert(other, tmp_path / "out.jsonl", target="trl", source_form="hh")
    for names in ({"target": "dpo"}, {"target": "trl", "source_form": "dpo"}):
        with pytest.raises(ValueError, match=r"dpo is not a form: use one of ultrafeedback, helpsteer2"):
            convert(other, tmp_path / "out.jsonl", **names)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("out.parquet.gz", r"out.parquet.gz is not a kind of file that can be written: use .parquet, or .jsonl"),
        ("out", "is not a kind of file that can be written"),
        ("missing/out.jsonl", "missing does not exist: make it, or name another file"),
        ("folder.json", "is a directory: name a file"),
        ("in.jsonl", "is the file that is read: name another file to write"),
    ],
)
def test_conversion_refuses_a_path_before_it_reads(name: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    source = written(tmp_path, PAIR)
    with pytest.raises(ValueError, match=says):
        convert(source, tmp_path / name, target="trl")
    assert rows_of(tmp_path / "in.jsonl") == [PAIR]


def test_conversion_that_fails_keeps_the_earlier_file_and_leaves_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("earlier")
    source = written(tmp_path, PAIR, PAIR | {"p": 0.1})
    with pytest.raises(ValueError, match="line 2"):
        convert(source, out, target="trl")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_files.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*out.jsonl"):
        convert(written(tmp_path, PAIR), out, target="trl")
    assert out.read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_conversion_reports_its_progress(tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []

    class Listener:
        def began(self, round: str, stage: str) -> None: ...
        def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...
        def advanced(self, done: int, total: int, text: str) -> None:
            steps.append((done, total))

    with progress.reporting_to(Listener()):
        convert(written(tmp_path, *[PAIR] * 1200), tmp_path / "out.jsonl", target="trl")
    assert steps == [(500, 1200), (1000, 1200), (1200, 1200)]


def test_conversion_of_best_and_worst_or_of_every_two(tmp_path: Path) -> None:
    scores = {"a": 1.0, "b": 3.0, "c": 2.0}
    completions = [{"response": name, "fine-grained_score": score} for name, score in scores.items()]
    source, out = written(tmp_path, {"instruction": "Hi", "completions": completions}), tmp_path / "out.jsonl"
    convert(source, out, target="trl-text")
    assert rows_of(out) == [{"prompt": "Hi", "chosen": "b", "rejected": "a"}]
    convert(source, out, target="trl-text", choice="all_pairs")
    assert [(row["chosen"], row["rejected"]) for row in rows_of(out)] == [("b", "a"), ("c", "a"), ("b", "c")]


def test_conversion_names_rows_without_a_pair(tmp_path: Path) -> None:
    parted = {"chosen": [*HI, *GOOD, *HI, *GOOD], "rejected": HI + BAD}
    whole = {"chosen": HI + GOOD, "rejected": HI + BAD}
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in (parted, whole)).encode()))
    conversion = convert(str(path), tmp_path / "out.jsonl", target="trl")
    assert conversion.left_out == {"chosen and rejected differ before the last answer": 1}
    assert (conversion.num_rows, conversion.num_pairs) == (2, 1)


CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": "Z\u00fcrich"}}}
DAYS = {"id": "c2", "type": "function", "function": {"name": "weather", "arguments": {"days": 2}}}


def called(call: dict[str, Any]) -> dict[str, Any]:
    result = {"role": "tool", "content": "-4", "tool_call_id": call["id"]}
    asked = [*HI, {"role": "assistant", "content": "", "tool_calls": [call]}, result]
    return {"prompt": asked, "chosen": GOOD, "rejected": BAD, "tools": TOOLS}


def test_conversion_to_parquet_is_read_back_by_datasets_and_by_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small batch, so that keys and columns that only later rows have come in another one."""
    monkeypatch.setattr(parquet_rows, "BATCH_ROWS", 3)
    rows = [*[CHAT] * 4, called(CALL), CHAT, called(DAYS), *[CHAT] * 3]
    out, lines = tmp_path / "out.parquet", tmp_path / "out.jsonl"
    source = written(tmp_path, *rows)
    assert convert(source, out, target="trl").num_rows_written == len(rows)
    assert load_seed_pairs(str(out), split="train").pairs == load_seed_pairs(source, split="train").pairs
    assert pq.ParquetFile(out).num_row_groups == 4
    loaded = load_dataset("parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["chosen"][0]["content"] == "Hello!"
    assert is_conversational(loaded[0])
    convert(source, lines, target="trl")
    read = [remove_none_values(row) for row in loaded]
    assert [row | ({"tools": json.loads(row["tools"])} if "tools" in row else {}) for row in read] == rows_of(lines)


def test_conversion_to_parquet_keeps_our_own_columns_and_labels(tmp_path: Path) -> None:
    rows = [PAIR | {"p": 0.8, "margin": 1.5, "tag": "style", "source": "web"}, PAIR | {"margin": 2, "n": 3}]
    source, out = written(tmp_path, *rows), tmp_path / "out.parquet"
    convert(source, out, target="ratchet")
    again = tmp_path / "again.jsonl"
    convert(str(out), again, target="ratchet")
    convert(source, tmp_path / "direct.jsonl", target="ratchet")
    # A table has every column in every row.
    read = [{name: value for name, value in row.items() if value is not None} for row in rows_of(again)]
    assert read == rows_of(tmp_path / "direct.jsonl")


def test_conversion_to_parquet_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    with pytest.raises(ValueError, match=r"the column n holds values of several kinds.*write \.jsonl"):
        convert(written(tmp_path, PAIR | {"n": 1}, PAIR | {"n": "one"}), out, target="ratchet")
    null = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": {"city": None}}}
    with pytest.raises(ValueError, match="line 1 has a null within a list or an object"):
        convert(written(tmp_path, called(null)), out, target="trl")
    assert convert(written(tmp_path, called(null), CHAT), out, target="trl", unfit="skip").num_written == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]
