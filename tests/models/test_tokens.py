from typing import Any

import pytest

from components.models.tokens import prompt_ids


class _Wordless:
    """A tokenizer whose vocabulary has none of the words, as one that was read as another kind."""

    def apply_chat_template(self, *_: Any, **__: Any) -> str:
        return "Hello"

    def __call__(self, *_: Any, **__: Any) -> dict[str, list[int]]:
        return {"input_ids": []}


def test_a_prompt_without_tokens_is_refused_with_the_tokenizers_kind() -> None:
    tokenizer: Any = _Wordless()
    with pytest.raises(ValueError, match=r"the tokenizer \(_Wordless\) returns no tokens for the prompt 'Hello'"):
        prompt_ids(tokenizer, [{"role": "user", "content": "Hello"}])
