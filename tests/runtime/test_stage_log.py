"""The log file of a campaign: what stands in it, and when there is none."""

import logging
import re
import time
from pathlib import Path

import pytest

from components.runtime import progress
from components.runtime.stage_log import logged_to


def messages(path: Path) -> list[str]:
    return [line.split(" ", 2)[2] for line in path.read_text().splitlines()]


def test_stages_and_what_they_log_and_the_error_stand_in_the_file(tmp_path: Path) -> None:
    def fail() -> None:
        with logged_to(tmp_path / "new" / "campaign.log"):
            progress.began("round-001", "dpo_train")
            logging.getLogger("components.dpo.stage").info("what a rank prints")
            progress.ended("round-001", "dpo_train", 12.34, already_done=False)
            progress.ended("round-001", "evaluate", 3.0, already_done=True)
            raise RuntimeError("the disk\nis full")

    with pytest.raises(RuntimeError):
        fail()
    assert messages(tmp_path / "new" / "campaign.log") == [
        "INFO round-001  dpo_train             begins",
        "INFO what a rank prints",
        "INFO round-001  dpo_train             done in 12.3 s",
        "INFO round-001  evaluate              already done",
        "ERROR ended by RuntimeError: the disk is full",
    ]
    logging.getLogger("components.dpo.stage").warning("after the block")
    assert "after the block" not in (tmp_path / "new" / "campaign.log").read_text()


def test_foreign_text_in_the_log_neither_steers_a_terminal_nor_forges_a_record(tmp_path: Path) -> None:
    said = "reply: \x1b[2J\n2026-11-30 10:00:00 INFO round-001  promote  done\rround-001  promote  done"
    with logged_to(tmp_path / "campaign.log"):
        logging.getLogger("components.judges").warning("%s", said)
    first, second = (tmp_path / "campaign.log").read_text().splitlines()
    assert first.endswith("WARNING reply: \ufffd[2J")
    assert second == "    2026-11-30 10:00:00 INFO round-001  promote  done\ufffdround-001  promote  done"


def test_running_stage_has_its_lines_and_a_second_start_appends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RATCHET_PROGRESS_SECONDS", "0.05")
    for _ in range(2):
        with logged_to(tmp_path / "campaign.log"):
            progress.began("round-002", "evaluate")
            progress.report(3, 7, "held-out responses")
            _wait_for(tmp_path / "campaign.log", "3 of 7")
    lines = [line for line in messages(tmp_path / "campaign.log") if "begins" in line or "of 7" in line]
    assert lines[0] == "INFO round-002  evaluate              begins"
    assert re.fullmatch(
        r"INFO round-002  evaluate {14}3 of 7, 0 s so far, memory \d+\.\d GiB, held-out responses", lines[1]
    )
    assert lines.count(lines[0]) == 2


def test_wrong_input_before_anything_ran_leaves_no_file(tmp_path: Path) -> None:
    def refuse() -> None:
        with logged_to(tmp_path / "out" / "collect.log"):
            raise ValueError("p.jsonl is empty")

    with pytest.raises(ValueError, match="is empty"):
        refuse()
    assert list(tmp_path.iterdir()) == []


def _wait_for(path: Path, text: str) -> None:
    deadline = time.monotonic() + 20
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
