"""The text in which judges read a conversation."""

import json

from components.judges.wording import as_text


def test_conversation_shows_tool_calls_which_have_no_content() -> None:
    """Else two conversations that differ in a call look alike to the judge."""
    call = {"type": "function", "function": {"name": "delete_all", "arguments": {"path": "/"}}}
    text = as_text(
        [
            {"role": "user", "content": "Clean up."},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "done"},
        ]
    )
    assert text.startswith("[user]\nClean up.\n\n[assistant]\n[tool calls]\n")
    assert '"name": "delete_all", "arguments": {"path": "/"}' in text
    assert text.endswith("\n\n[tool]\ndone")


def test_conversation_names_the_tool_and_the_call_of_each_result() -> None:
    """With two calls, a judge could not tell which result belongs to which."""
    calls = [
        {"id": name, "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
        for name, city in (("c1", "Oslo"), ("c2", "Rome"))
    ]
    results = [
        {"role": "tool", "content": "-4", "tool_call_id": "c1"},
        {"role": "tool", "content": "17", "tool_call_id": "c2", "name": "weather"},
        {"role": "tool", "content": "?", "tool_call_id": "c3"},
    ]
    text = as_text([{"role": "assistant", "content": "", "tool_calls": calls}, *results])
    assert all(json.dumps(call) in text for call in calls)
    assert text.endswith("\n\n[tool: weather, c1]\n-4\n\n[tool: weather, c2]\n17\n\n[tool: c3]\n?")
