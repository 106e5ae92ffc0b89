"""The items of a JSON array come one by one, wherever the file is cut while it is read."""

import io
import json
from typing import Any

import pytest

from components.data import json_items as module
from components.data.json_items import json_items

VALUES: list[Any] = [{"a": "é\n]", "b": [1, 2]}, 12345, "x,y", {}, [], None, -1.5e3, {"c": {"d": "\\"}}]


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 4096])
@pytest.mark.parametrize("indent", [None, 1])
def test_items_are_those_of_the_array(chunk: int, indent: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    for values in (VALUES, [], [7]):
        content = b"\xef\xbb\xbf \n" + json.dumps(values, indent=indent, ensure_ascii=False).encode() + b"\n"
        items = list(json_items(io.BytesIO(content), source="a", max_characters=100))
        assert [json.loads(item) for item in items] == values


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[1, 2", "a item 2 is not followed by a comma or the end of the array"),
        ("[1 2]", "a item 1 is not followed by"),
        ("[1,]", "a item 2 is not valid JSON"),
        ('[{"a": 1}, {"b": ', "a item 2 is not valid JSON"),
        ("[1] 2", "a has text behind its array"),
        ('["' + "x" * 200 + '"]', "a item 1 has over 100 characters"),
        ('["' + "x" * 20, "a item 1 is not valid JSON"),
    ],
)
def test_array_that_is_broken_or_too_long_is_refused_in_one_line(
    content: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 16)
    with pytest.raises(ValueError, match=says) as raised:
        list(json_items(io.BytesIO(content.encode()), source="a", max_characters=100))
    assert "\n" not in str(raised.value)


def test_array_that_is_no_utf_8_is_refused() -> None:
    with pytest.raises(ValueError, match="a is not valid UTF-8"):
        list(json_items(io.BytesIO(b'["\xff"]'), source="a", max_characters=100))
