"""HTML of untrusted Markdown that is safe to show beside our own: it runs nothing, loads nothing, and styles nothing.

Two walls: the Markdown reader lets no HTML through, and what it writes passes a list of allowed tags.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.rules_core import StateCore
from markdown_it.token import Token

from components.runtime.printable import printable

TAGS = frozenset(
    (
        *("p", "br", "hr", "blockquote", "ul", "ol", "li", "pre", "code", "em", "strong", "s", "a"),
        *("table", "thead", "tbody", "tr", "th", "td", "h4", "h5", "h6"),
    )
)
"""No images, nothing that loads, and no forms."""
ATTRIBUTES = {"a": {"href"}, "ol": {"start"}, "*": set[str]()}
"""By tag; without the last entry nh3 lets titles and languages through."""
SCHEMES = {"http", "https", "mailto"}
LINK_REL = "noopener noreferrer nofollow"
HEADINGS_BELOW = 3
"""Level of the page's own headings, below which those of a text stand, so that the page's outline stays true."""
OPTIONS: dict[str, Any] = {"html": False, "breaks": True, "maxNesting": 40}
"""The default leaves out what stands in more than ten nested lists; a higher number costs time on hostile texts."""
LONGEST_MARKDOWN = 20_000
"""Characters of a text above which it is shown as it is: some texts take the square of their length to read."""


@lru_cache(maxsize=512)
def safe_html(markdown: str) -> str:
    """Return the HTML of a Markdown text of anybody, for an element of a page of ours.

    HTML in the text shows as text, an image as a link to it, and control characters that would steer or reorder the
    text as U+FFFD. A very long text is not read as Markdown. Links open in a new window; `.text a` of base.css shows
    where they lead.
    """
    text = printable(markdown.replace("\r\n", "\n").replace("\r", "\n"))
    if len(text) > LONGEST_MARKDOWN:
        return f"<pre>{nh3.clean_text(text)}</pre>"
    return nh3.clean(
        _reader().render(text),
        tags=set(TAGS),
        attributes={tag: set(names) for tag, names in ATTRIBUTES.items()},
        url_schemes=set(SCHEMES),
        url_relative="deny",
        link_rel=LINK_REL,
        set_tag_attribute_values={"a": {"target": "_blank"}},
        strip_comments=True,
    )


@cache
def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", OPTIONS).enable(["table", "strikethrough"])
    reader.disable("image")
    reader.core.ruler.push("lower_headings", _lower_headings)
    reader.core.ruler.push("without_cell_styles", _without_cell_styles)
    return reader


def _lower_headings(state: StateCore) -> None:
    for token in _of_type(state.tokens, "heading_open", "heading_close"):
        token.tag = f"h{min(6, int(token.tag[1:]) + HEADINGS_BELOW)}"


def _without_cell_styles(state: StateCore) -> None:
    """Drop the alignment of cells, which is a style that a strict policy of the page refuses."""
    for token in _of_type(state.tokens, "th_open", "td_open"):
        token.attrs.pop("style", None)


def _of_type(tokens: Sequence[Token], *types: str) -> list[Any]:
    return [token for token in tokens if token.type in types]
