"""What the table of promises names exists."""

import re

from tests.docs.pages import ROOT

NAMED = re.compile(r"`(?P<file>faults/\w+\.py)(::(?P<test>\w+))?`")


def test_promises_name_tests_that_exist() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.partition("## What is promised")[2].partition("\n## ")[0]
    found = list(NAMED.finditer(section))
    assert len(found) >= 10
    for name in found:
        source = (ROOT / "tests" / name["file"]).read_text(encoding="utf-8")
        assert name["test"] is None or f"def {name['test']}(" in source, name[0]
