import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.web.safe_html import LONGEST_MARKDOWN, TAGS, safe_html

ATTACKS = {
    "script": "<script>alert(1)</script>",
    "image by HTML": '<img src="https://evil.example/a.png" onerror="alert(1)">',
    "image by Markdown": "![seen](https://evil.example/a.png)",
    "link of a script": "[here](javascript:alert(1)) [there](JaVaScRiPt&#58;alert(1)) <javascript:alert(1)>",
    "link of data": "[here](data:text/html,<script>alert(1)</script>)",
    "style": "<style>body{display:none}</style><p style='position:fixed;inset:0'>over all</p>",
    "style of a cell": "|a|\n|:-:|\n|b|",
    "end of a script": '</script><script>alert(1)</script>{"a": "</script>"}',
    "end of code": "```\n</code></pre><script>alert(1)</script>\n```",
    "name of a language": '```x" onmouseover="alert(1)\ncode\n```',
    "frame and form": "<iframe src=//evil.example></iframe><form action=//evil.example><input></form>",
    "vector image": "<svg onload=alert(1)><math><mtext><img src=x onerror=alert(1)>",
    "title of a link": '[a](https://a.example "x\\" onclick=\\"alert(1)")',
    "comment": "<!-- --><script>alert(1)</script> <!--",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_html_of_an_attack_has_allowed_tags_alone(attack: str) -> None:
    html = safe_html(attack)
    tags = re.findall(r"<\s*/?\s*([a-zA-Z!][^\s>/]*)([^>]*)>", html)
    assert {tag.lower() for tag, _ in tags} <= TAGS
    attributes = {name for _, rest in tags for name in re.findall(r"(?:^|\s)([\w-]+)=", re.sub(r'"[^"]*"', '""', rest))}
    assert attributes <= {"href", "rel", "target", "start"}
    assert not re.search(r'href="(?!https?:|mailto:)', html)


def test_html_in_a_text_shows_as_text() -> None:
    assert safe_html("<b>bold</b>") == "<p>&lt;b&gt;bold&lt;/b&gt;</p>\n"


@pytest.mark.parametrize("steering", ["\x1b[31m", "\u202e", "\u2066", "\x00", "\x9b"])
def test_control_characters_are_replaced(steering: str) -> None:
    assert "\ufffd" in safe_html(f"before{steering}after")
    assert steering[0] not in safe_html(f"before{steering}after")


def test_links_open_elsewhere_and_tell_nothing() -> None:
    html = safe_html("[a](https://a.example/b?c=d&e=f)")
    assert 'href="https://a.example/b?c=d&amp;e=f"' in html
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'target="_blank"' in html


@pytest.mark.parametrize("target", ["/join/secret", "//evil.example", "page"])
def test_link_into_our_own_pages_leads_nowhere(target: str) -> None:
    assert "href" not in safe_html(f"[a]({target})")


def test_headings_stand_below_those_of_the_page() -> None:
    assert safe_html("# a\n\n###### b") == "<h4>a</h4>\n<h6>b</h6>\n"


def test_text_nested_deeply_is_not_lost() -> None:
    assert "innermost" in safe_html(
        "".join(f"{'  ' * depth}- a\n" for depth in range(18)) + "  " * 18 + "- innermost\n"
    )


def test_very_long_text_is_shown_as_it_is_and_as_safely() -> None:
    html = safe_html("[" * LONGEST_MARKDOWN + "<script>alert(1)</script>\x1b**b**")
    assert html.startswith("<pre>")
    assert "<script" not in html
    assert "\ufffd**b**" in html.replace("&#42;", "*")


FRAGMENTS = (
    *("<script>", "</script>", "<img src=x onerror=y>", '<a href="javascript:x">', '" onclick="x', "'", '"', "`"),
    *("](", "[", ")", "![", "\n", "\n\n", "> ", "- ", "1. ", "|a|b|\n|-|-|\n", "*", "**", "~~", "```\n"),
    *("javascript:alert(1)", "https://a.example", "data:text/html,x", "//evil.example", "\x00", "\u202e", "text "),
    *("&lt;", "&#x6a;", "<!--", "\\", "<", ">"),
)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
def test_html_of_any_text_has_allowed_tags_and_addresses_alone(text: str) -> None:
    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in TAGS
            for name, value in attrs:
                assert name in {"href", "rel", "target", "start"}
                assert name != "href" or re.match(r"(https?|mailto):", value or "")

        def handle_comment(self, data: str) -> None:
            raise AssertionError(data)

        handle_decl = handle_pi = handle_comment

    Reader().feed(safe_html(text))


def test_markdown_of_code_and_tables_is_kept() -> None:
    html = safe_html("```python\nprint('<a>')\r\n```\n\n| a | b |\n|---|---|\n| 1 | ~~2~~ |\n")
    assert "<pre><code>print('&lt;a&gt;')\n</code></pre>" in html
    assert "<td><s>2</s></td>" in html
