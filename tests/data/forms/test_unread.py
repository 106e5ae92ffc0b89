"""What messages hold that no form reads is counted, wherever the messages stand."""

import json
from typing import Any

import pytest

from components.data.forms.unread import unread_keys
from components.data.rows import Row, Rows

NAMED = {"role": "user", "content": "Hi", "name": "ann"}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ([NAMED, NAMED | {"weight": 0}], {"name": 2, "weight": 1}),
        (json.dumps([NAMED]), {"name": 1}),
        ({"messages": [NAMED], "tools": [{"role": "x"}]}, {"name": 1}),
        ([{"role": "tool", "content": "1", "name": "f", "tool_call_id": "c"}], {}),
        ([{"role": "assistant", "content": "", "tool_calls": [{"role": "x", "more": 1}], "audio": None}], {}),
        ([{"role": "user", "content": "Hi", "tools": [{"name": "f"}]}], {}),
        ([NAMED, {"role": "user", "content": "Hi", "tools": [{"name": "f"}]}], {"name": 1, "tools": 1}),
        ([{"from": "human", "value": "Hi", "id": "7"}], {"id": 1}),
        ("[{'role': 'user', 'content': 'x'}]", {}),
        ("plain", {}),
        (None, {}),
    ],
)
def test_unread_keys_of_messages_are_counted(cell: Any, expected: dict[str, int]) -> None:
    rows = Rows("x", ("a", "b"), [Row("x line 1", {"a": cell, "b": [NAMED]})])
    assert unread_keys(rows, ["a"]) == expected
