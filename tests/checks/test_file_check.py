"""The checks of a whole file: verdicts, quarantine, and what does not change with order, form or processes."""

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.checks import scan
from components.checks.file_check import FileCheck, FileResult
from components.checks.publish import check_pairs
from components.checks.registry import CHECKS
from components.config import ChecksConfig
from components.data.raw_batch import RawBatch
from components.data.row_batches import RowSource
from tests.checks.conftest import Checker, of
from tests.checks.planting import DEFECTS, clean_rows, lines, planted

HI = {"prompt": "What is the capital of France?", "chosen": "It is Paris.", "rejected": "It is Rome."}


def result_of(path: Path) -> FileResult:
    return FileCheck(RowSource(str(path), split="train"), ChecksConfig(), None).run()


def test_checks_are_those_of_the_configuration() -> None:
    limits = [name for name, field in ChecksConfig.model_fields.items() if type(field.default).__name__ == "Limit"]
    assert sorted(check.name for check in CHECKS) == sorted(limits)


def test_rows_that_are_no_pair_are_rejected_with_their_reason_and_the_others_are_checked(check: Checker) -> None:
    empty = {**HI, "prompt": []}
    result = check([HI, "{broken", {**HI, "p": 2, "chosen": "Lyon."}, {"prompt": "a", "chosen": "b"}, "[1]", empty])
    form = of(result, "form")
    assert form.verdict == "fail"
    assert form.found == 5
    assert form.details == {
        "is not a JSON object": 2,
        "p is outside [0, 1]": 1,
        "cannot be read as a pair": 1,
        "the prompt is empty": 1,
    }
    assert result.rejected[2] == "form: p is outside [0, 1]"
    assert result.num_pairs == 2


def test_file_without_a_pair_is_refused_with_its_first_error(check: Checker) -> None:
    with pytest.raises(ValueError, match=r"pairs.jsonl line 1 has no rejected: a pair needs the columns chosen"):
        check([{"prompt": "a", "chosen": "b"}])


def test_file_without_a_pair_is_refused_if_nobody_looks_at_its_form_too(check: Checker) -> None:
    with pytest.raises(ValueError, match=r"no row of .*pairs.jsonl is a pair"):
        check([{"prompt": "a", "chosen": "b"}], form={"on_breach": "off"})


def test_empty_file_is_refused(check: Checker) -> None:
    with pytest.raises(ValueError, match="is empty: name a data set with at least one row"):
        check([])


def test_limit_decides_between_pass_warn_fail_and_skipped(check: Checker) -> None:
    rows = [*(HI | {"prompt": f"Question {n}"} for n in range(9)), HI | {"chosen": ""}]
    assert of(check(rows, empty_answers={"max_share": 0.1}), "empty_answers").verdict == "pass"
    assert of(check(rows, empty_answers={"max_share": 0.09}), "empty_answers").verdict == "fail"
    assert of(check(rows, empty_answers={"max_share": 0.0, "on_breach": "warn"}), "empty_answers").verdict == "warn"
    skipped = check(rows, empty_answers={"on_breach": "off"})
    assert of(skipped, "empty_answers").verdict == "skipped"
    assert skipped.rejected == {}


def test_limit_that_keeps_its_rows_quarantines_none(check: Checker) -> None:
    rows = [HI, HI | {"chosen": ""}]
    assert check(rows, empty_answers={"quarantine": False}).rejected == {}
    assert check(rows).rejected == {1: "empty_answers: the chosen answer is empty"}


def test_nothing_to_measure_is_never_a_pass(check: Checker) -> None:
    result = check([HI])
    for name in ("consistency", "length_bias", "tag_balance", "prompt_coverage", "leakage"):
        assert (of(result, name).verdict, of(result, name).share) == ("skipped", None)


@pytest.mark.parametrize("defect", ["near_duplicate_answers", "contradictions"])
def test_found_rows_do_not_depend_on_the_order_of_other_rows(defect: str, tmp_path: Path) -> None:
    rows, places = planted(defect, number=400, share=0.05, seed=2)
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(rows))
    before = {json.dumps(rows[row]) for row in result_of(path).rejected} if defect == "contradictions" else None
    counts = of(result_of(path), defect).found
    random.Random(1).shuffle(rows)
    path.write_text(lines(rows))
    after = result_of(path)
    assert of(after, defect).found == counts >= len(places)
    if before is not None:
        assert {json.dumps(rows[row]) for row in after.rejected} == before


def test_forms_of_a_file_and_numbers_of_processes_give_one_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, _ = planted("special_tokens", number=300, share=0.05, seed=4)
    jsonl, parquet = tmp_path / "pairs.jsonl", tmp_path / "pairs.parquet"
    jsonl.write_text(lines(rows))
    pq.write_table(pa.Table.from_pylist(rows), parquet)
    first = result_of(jsonl)
    assert [check.found for check in result_of(parquet).checks] == [check.found for check in first.checks]
    monkeypatch.setattr(scan, "INLINE_BATCHES", 1)
    monkeypatch.setattr("components.checks.file_check.BATCH_ROWS", 64)
    spread = result_of(jsonl)
    assert spread.rejected == first.rejected
    assert [check.examples for check in spread.checks] == [check.examples for check in first.checks]


def test_published_quarantine_holds_every_rejected_row_with_its_reason(tmp_path: Path) -> None:
    rows = [*clean_rows(3, seed=1), HI | {"chosen": " ", "extra": 3}, HI | {"p": 9}]
    path, out = tmp_path / "pairs.jsonl", tmp_path / "out"
    path.write_text(lines(rows) + "{broken\n")
    check_pairs(str(path), split="train", config=ChecksConfig(), held_out=None, out=out)
    kept = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert [row["row"] for row in kept] == [3, 4, 5]
    assert json.loads(kept[0]["content"]) == rows[3]
    assert kept[0]["reason"] == "empty_answers: the chosen answer is empty"
    assert kept[2]["content"] == "{broken\n"
    written = json.loads((out / "validation.json").read_text())
    assert (written["verdict"], written["rows"], written["quarantined"]) == ("fail", 6, 3)
    page = (out / "report.html").read_text()
    assert "http" not in page.replace("http-equiv", "")
    assert "Rows that are no pair" in page


def test_file_that_changes_between_two_readings_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines([HI]))
    source = RowSource(str(path), split="train")
    path.write_text(lines([HI, HI]))
    with pytest.raises(ValueError, match="changed while it was checked"):
        list(source.batches(size=10, columns=None))


def test_every_planted_defect_has_a_check() -> None:
    assert DEFECTS.keys() < {check.name for check in CHECKS}


TEXTS = st.text(max_size=40) | st.sampled_from(
    ["", "[]", "\n\nHuman: hi\n\nAssistant: yo", "<|im_end|>", "\x00", "Ã©", "+1 212 555 7890", "://:@"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": inner})
    ),
    max_leaves=4,
)
COLUMNS = ["prompt", "chosen", "rejected", "p", "margin", "tag", "system", "source", "completion", "label"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(COLUMNS), TEXTS | VALUES), min_size=1, max_size=4))
def test_rows_of_any_values_are_findings_and_never_an_error(rows: list[dict[str, Any]]) -> None:
    batch = RawBatch("rows", 0, "row", range(1, len(rows) + 1), rows, 0)
    scanned = scan.Scanner(ChecksConfig(), None).scan(batch)
    apart = {*scanned.findings["form"].rows, *scanned.findings["different_prompts"].rows}
    assert scanned.num_rows == len(rows)
    assert scanned.num_pairs >= len(rows) - len(apart)
    assert all(0 <= row < len(rows) for finding in scanned.findings.values() for row in finding.rows)
