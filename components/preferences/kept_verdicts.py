"""Keep a judge's verdicts while the round waits for people, whose questions depend on them.

On an accelerator a model need not score the same text alike twice, and other scores would choose other pairs than those
that people are voting on.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from components.artifacts import digest, read_json, write_json
from components.data.messages import format_messages
from components.judges.protocol import Group, Judge, Verdict


class KeptVerdicts:
    """A judge whose verdicts on the same groups are written to a file, and read from it the next time."""

    def __init__(self, judge: Judge, path: Path, *, identity: str) -> None:
        """Take the judge.

        Args:
            judge: The judge.
            path: File of the verdicts.
            identity: The judge's digest: other verdicts are not taken.
        """
        self.name = judge.name
        self._judge, self._path, self._identity = judge, path, identity

    def judge(self, groups: Sequence[Group]) -> list[Verdict]:
        """Return the verdicts in the file if they are on these groups; else judge, and write them."""
        asked = [(group.prompt_id, format_messages(group.messages), group.responses) for group in groups]
        key = digest({"judge": self._identity, "asked": asked})
        if self._path.exists():
            kept = read_json(self._path)
            if kept["key"] == key:
                return [Verdict(**verdict) for verdict in kept["verdicts"]]
        verdicts = self._judge.judge(groups)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._path, {"key": key, "verdicts": [asdict(verdict) for verdict in verdicts]})
        return verdicts
