"""Foreign text in one printable line, whatever ends a line and whatever steers a terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.runtime.printable import one_line, printable


@given(st.text())
def test_one_line_of_any_text_is_one_line_that_can_be_written(text: str) -> None:
    line = one_line(text)
    assert len(line.splitlines()) <= 1
    line.encode()


@pytest.mark.parametrize("text", ["日本\u3000語", "a\u00a0b", "👩\u200d🔬", "x\ty", "ﷺ العربية"])
def test_one_line_leaves_letters_of_every_script_as_they_are(text: str) -> None:
    assert one_line(text) == text


def test_one_line_of_much_space_takes_no_quadratic_time() -> None:
    """A pattern with space on both sides of the break tried every pair of places: a minute for 100,000 spaces."""
    assert one_line(f"a{' ' * 1_000_000}b\n\n  c") == f"a{' ' * 1_000_000}b c"


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x08", "\x1b", "\x7f", "\x9b", "\u202e", "\u2066", "\udc80"])
def test_printable_replaces_what_steers_and_keeps_lines(character: str) -> None:
    assert printable(f"a{character}\nb") == "a\ufffd\nb"
