"""The nodes of a running stage, as their marked lines tell of them."""

import contextlib
import json
import logging
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from components.runtime.children import end
from components.runtime.ticking import every

NODE_MARK = "::node "
"""Begins a line in which a node says what it does."""
SIGN_SECONDS = 10.0
"""Seconds between two signs of life, of a node by a marked line and of the stage by its message."""
log = logging.getLogger(__name__)


def marked_line(event: str, name: str, *, index: int | None = None, text: str = "") -> str:
    """Return the line by which a node, or its launcher, tells the stage of an event.

    Args:
        event: `began`, `alive`, `ended` or `refused`, of the node itself; `lost`, of its launcher.
        name: The node's name.
        index: The node's index, which a launcher may not know.
        text: Why the node refuses, or its exit code.
    """
    return f"{NODE_MARK}{json.dumps({'index': index, 'name': name, 'event': event, 'text': text})}"


class Nodes:
    """What is known of a stage's nodes: which have begun, which have ended, and when each was last heard.

    Args:
        number: How many nodes the stage has.
        silence_seconds: Seconds without a line after which a node that has begun counts as lost.
    """

    def __init__(self, number: int, *, silence_seconds: float) -> None:
        self.number, self.silence_seconds = number, silence_seconds
        self.refusal: str | None = None
        """Why a node cannot work, if it said so."""
        self._silent: dict[int, str] = {}
        """Nodes that were silent for too long."""
        self._told_lost: list[str] = []
        """Names of the nodes that their launcher has lost."""
        self._names: dict[int, str] = {}
        self._heard: dict[int, float] = {}
        self._ended: set[int] = set()

    def hear(self, mark: str) -> None:
        """Note what a node says in a marked line, given without its beginning."""
        said = json.loads(mark)
        index, event = said["index"], said["event"]
        if event == "lost":
            self._told_lost.append(said["name"])
            return
        self._names[index], self._heard[index] = said["name"], time.monotonic()
        if event == "began":
            log.info("node %s works (%d of %d)", said["name"], index + 1, self.number)
        if event == "refused":
            self.refusal = f"node {said['name']}: {said['text']}"
        if event in ("refused", "ended"):
            self._ended.add(index)

    def lost(self) -> list[str]:
        """Return the names of the nodes that are lost: silent, or told so by the launcher.

        If there are none, they are those that began and did not say that they end.
        """
        if self._silent:
            return [self._names[index] for index in sorted(self._silent)]
        ended = {self._names[index] for index in self._ended}
        return self._told_lost or sorted(set(self._names.values()) - ended)

    @contextlib.contextmanager
    def watched(self, launcher: "subprocess.Popen[str]", message: Path) -> Iterator[None]:
        """End the launcher's command, and with it all nodes, when a node is silent for too long.

        Args:
            launcher: The launcher's command.
            message: The nodes' message. It is touched within the block, so that nodes that outlive their stage end.
        """

        def touch() -> None:
            with contextlib.suppress(OSError):
                os.utime(message)

        def look() -> bool:
            now = time.monotonic()
            for index, heard in list(self._heard.items()):
                if index not in self._ended and now - heard > self.silence_seconds:
                    self._silent[index] = self._names[index]
            if self._silent:
                log.error("no sign of life of node %s for %.0f s", ", ".join(self.lost()), self.silence_seconds)
                end(launcher)
            return bool(self._silent)

        with every(SIGN_SECONDS, touch), every(1.0, look):
            yield
