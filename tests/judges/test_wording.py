"""The text in which judges read a conversation."""

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
