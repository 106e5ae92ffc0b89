"""Check the form of a response with a regular expression."""

import re


def score(response: str, pattern: str | None, whole: bool = True, flags: str = "s") -> float | None:
    """Return 1 if a response has the form that a regular expression describes, else 0.

    Args:
        response: The response.
        pattern: The column or argument `pattern`, of Python's `re`. Null does not apply.
        whole: Whether the whole response must match, without the white space around it; else some part of it.
        flags: Letters of `re`'s flags: `i` ignores case, `m` has ^ and $ match at lines, `s` has a dot match line ends.

    Raises:
        re.error: The pattern is not a regular expression, so the verdict is invalid.
    """
    if pattern is None:
        return None
    compiled = re.compile(pattern, sum({re.RegexFlag[letter.upper()] for letter in flags}, re.RegexFlag(0)))
    text = response.strip()
    return float((compiled.fullmatch(text) if whole else compiled.search(text)) is not None)
