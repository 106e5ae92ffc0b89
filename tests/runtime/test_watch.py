"""The running stage in words, by a clock that the test holds."""

import re
import threading

import pytest

from components.runtime import watch as module
from components.runtime.watch import StageWatch, duration, line_seconds, saying

MEMORY = r"memory \d+\.\d GiB"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    held = Clock()
    monkeypatch.setattr(module, "time", held)
    return held


def started(clock: Clock) -> StageWatch:
    watch = StageWatch()
    watch.began("round-001", "dpo_train")
    clock.now += 30
    return watch


def test_stage_without_a_report_says_how_long_it_runs(clock: Clock) -> None:
    assert re.fullmatch(f"30 s so far, {MEMORY}", started(clock).facts())


def test_speed_and_time_left_by_hand(clock: Clock) -> None:
    watch = started(clock)
    watch.advanced(0, 100, "steps")
    clock.now += 40
    watch.advanced(20, 100, "loss 0.6931")
    # 20 steps in 40 s are 0.5 a second; 80 steps are left, which is 160 s.
    assert re.fullmatch(rf"20 of 100, 0\.5 a second, about 3 min left, {MEMORY}, loss 0\.6931", watch.facts())
    clock.now += 70  # 70 s into the next step, 90 s are left
    assert "about 90 s left" in watch.facts()
    clock.now += 700
    assert "about 0 s left" in watch.facts(), "a stage that hangs must not tell a negative time"


def test_steps_of_an_earlier_start_do_not_count_as_speed(clock: Clock) -> None:
    """A training that resumes at step 60 of 100 made none of those 60 now."""
    watch = started(clock)
    watch.advanced(60, 100, "steps")
    clock.now += 10
    watch.advanced(61, 100, "loss 0.6")
    assert "61 of 100, 0.1 a second, about 6 min left" in watch.facts()


@pytest.mark.parametrize(("done", "total"), [(0, 100), (0, 7), (5, 700)], ids=["again", "again of less", "of more"])
def test_next_count_of_a_stage_has_its_own_speed(done: int, total: int, clock: Clock) -> None:
    watch = started(clock)
    watch.advanced(0, 100, "pairs read")
    clock.now += 1
    watch.advanced(100, 100, "pairs read")
    watch.advanced(done, total, "steps")
    clock.now += 10
    watch.advanced(done + 1, total, "steps")
    assert f"{done + 1} of {total}, 0.1 a second" in watch.facts()


def test_first_report_alone_has_no_speed(clock: Clock) -> None:
    watch = started(clock)
    watch.advanced(3, 10, "")
    assert re.fullmatch(f"3 of 10, 30 s so far, {MEMORY}", watch.facts())


def test_published_stage_leaves_nothing_to_the_next(clock: Clock) -> None:
    watch = started(clock)
    watch.advanced(9, 10, "loss 1")
    watch.ended("round-001", "dpo_train", 30.0, already_done=False)
    assert watch.name.split() == ["round-001", "between", "stages"]
    clock.now += 5
    assert re.fullmatch(f"5 s so far, {MEMORY}", watch.facts())


def test_durations_in_words() -> None:
    assert [duration(each) for each in (0.4, 119, 150, 7139, 7500, 36000)] == [
        "0 s",
        "119 s",
        "2 min",
        "119 min",
        "2 h 05 min",
        "10 h 00 min",
    ]


@pytest.mark.parametrize("text", ["", "0", "-3", "nan", "inf", "a minute"])
def test_interval_that_is_no_positive_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RATCHET_PROGRESS_SECONDS", text)
    with pytest.raises(ValueError, match=r"RATCHET_PROGRESS_SECONDS = .* is not a positive number of seconds"):
        line_seconds()


def test_interval_is_a_minute_unless_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RATCHET_PROGRESS_SECONDS", raising=False)
    assert line_seconds() == 60
    monkeypatch.setenv("RATCHET_PROGRESS_SECONDS", "2.5")
    assert line_seconds() == 2.5


def test_no_line_follows_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that lives on would print into whatever the command prints at its end."""
    monkeypatch.setenv("RATCHET_PROGRESS_SECONDS", "0.01")
    said, before = threading.Event(), set(threading.enumerate())
    watch = StageWatch()
    watch.began("round-001", "start")
    with saying(watch, lambda line: said.set()):
        assert said.wait(20)
        assert set(threading.enumerate()) - before
    assert not set(threading.enumerate()) - before
