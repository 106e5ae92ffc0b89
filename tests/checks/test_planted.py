"""Every check finds what is planted at 1 % in clean data, and hardly anything else; the figures are printed."""

import random
from pathlib import Path

import pytest

from components.checks.file_check import FileCheck
from components.checks.held_out_file import read_held_out
from components.checks.leakage import HeldOut
from components.config import ChecksConfig
from components.data.row_batches import RowSource
from tests.checks.planting import DEFECTS, Row, clean_rows, lines, other_word, planted

ROWS, SHARE = 2000, 0.01
MIN_RECALL, MOST_FALSE_ALARMS = 0.95, 0.005


def found_in(path: Path, held_out: HeldOut | None = None) -> dict[str, set[int]]:
    check = FileCheck(RowSource(str(path), split="train"), ChecksConfig(), held_out)
    check.run()
    return {name: set(found.details) for name, found in check.found.items()}


@pytest.mark.parametrize("defect", DEFECTS)
def test_check_of_a_planted_defect_finds_it_and_no_check_finds_much_else(
    defect: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, places = planted(defect, number=ROWS, share=SHARE, seed=5)
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(rows))
    found = found_in(path)
    # Both rows of a contradiction are wrong, and so is the early one.
    originals = found[defect] - places if defect == "contradictions" else set()
    assert len(originals) <= len(places)
    recall = len(found[defect] & places) / len(places)
    alarms = {name: len(rows_found - places - originals) / ROWS for name, rows_found in found.items()}
    worst = max(alarms, key=lambda name: alarms[name])
    with capsys.disabled():
        print(
            f"\n{defect:<24} recall {recall:.3f}  false alarms {alarms[defect]:.4f}  worst {worst} {alarms[worst]:.4f}",
            end="",
        )
    assert recall >= MIN_RECALL
    assert {name: share for name, share in alarms.items() if share > MOST_FALSE_ALARMS} == {}


def test_clean_data_pass_every_check(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(lines(clean_rows(ROWS, seed=6)))
    result = FileCheck(RowSource(str(path), split="train"), ChecksConfig(), None).run()
    assert {check.name: check.summary for check in result.checks if check.verdict not in ("pass", "skipped")} == {}
    assert result.rejected == {}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def leaked(chance: random.Random, held: Row, row: Row) -> Row:
    """Return a row whose prompt is a held-out one, in one of the ways in which that happens."""
    turns = [user(held["prompt"]), {"role": "assistant", "content": held["chosen"]}, user("And what comes next then?")]
    return {
        **row,
        "prompt": chance.choice(
            (
                held["prompt"].upper().replace(" ", "  "),
                f"\n\nHuman: {held['prompt']}\n\nAssistant:",
                other_word(chance, held["prompt"]),
                turns,
                f"\n\nHuman: {held['prompt']}\n\nAssistant: {held['chosen']}\n\nHuman: And then?\n\nAssistant:",
            )
        ),
    }


def test_leakage_planted_in_every_way_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(3)
    held, rows = clean_rows(500, seed=7), clean_rows(ROWS, seed=8)
    places = chance.sample(range(ROWS), round(ROWS * SHARE))
    for place in places:
        rows[place] = leaked(chance, chance.choice(held), rows[place])
    # A training prompt that begins a held-out conversation.
    opening = chance.choice(rows)["prompt"]
    path, prompts = tmp_path / "pairs.jsonl", tmp_path / "held.jsonl"
    path.write_text(lines(rows))
    conversation = [user(rows[1]["prompt"]), {"role": "assistant", "content": opening}, user("Why is that so?")]
    prompts.write_text(lines([{"prompt": row["prompt"]} for row in held] + [{"prompt": conversation}]))
    index = read_held_out(str(prompts), split="train", similarity=ChecksConfig().duplicate_similarity)
    found = found_in(path, index)["leakage"]
    recall, alarms = len(found & {*places, 1}) / len({*places, 1}), len(found - {*places, 1}) / ROWS
    with capsys.disabled():
        print(f"\nleakage                  recall {recall:.3f}  false alarms {alarms:.4f}", end="")
    assert recall >= MIN_RECALL
    assert alarms <= MOST_FALSE_ALARMS
