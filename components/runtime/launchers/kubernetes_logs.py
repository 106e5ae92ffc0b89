"""The lines of a Job's pods, each printed once, although a stream of lines may break at any time."""

import sys
import threading
from typing import Any

from urllib3.exceptions import HTTPError

from components.runtime.launchers.kubernetes_job import CONTAINER

ANSWER_SECONDS, SILENT_SECONDS, AGAIN_SECONDS = 30, 60, 1.0
"""Seconds for an answer of the API server, without a line before a stream is opened again, and between two streams."""


class PodLogs:
    """Threads that print the lines of pods until the pods have ended.

    Args:
        core: The API's `CoreV1Api`.
        namespace: The pods' namespace.
    """

    def __init__(self, core: Any, namespace: str) -> None:
        self._core, self._namespace = core, namespace
        self._threads: dict[str, tuple[threading.Thread, threading.Event]] = {}
        self._refusals: list[Exception] = []

    def __enter__(self) -> "PodLogs":
        return self

    def __exit__(self, *_: object) -> None:
        for _thread, ended in self._threads.values():
            ended.set()
        self.drain()

    def follow(self, pod: dict[str, Any], *, has_ended: bool) -> None:
        """Print a pod's lines from when it runs until it has ended.

        Raises:
            ForbiddenException: Logs may not be read.
        """
        name = pod["metadata"]["name"]
        if name not in self._threads and pod["status"]["phase"] != "Pending":
            ended = threading.Event()
            thread = threading.Thread(target=self._print, args=(name, ended), daemon=True)
            self._threads[name] = (thread, ended)
            thread.start()
        if has_ended and name in self._threads:
            self._threads[name][1].set()
        if self._refusals:
            raise self._refusals[0]

    def drain(self) -> None:
        """Wait until all lines of the pods that have ended are printed; their logs go with the pods."""
        for thread, ended in self._threads.values():
            if ended.is_set():
                thread.join(ANSWER_SECONDS)

    def _print(self, name: str, ended: threading.Event) -> None:
        from kubernetes.client.exceptions import ApiException, ForbiddenException, NotFoundException

        printed = ("", 0)  # time of the last line, and which of the lines of that time it was
        options = {"container": CONTAINER, "follow": True, "timestamps": True, "_preload_content": False}
        seconds = (ANSWER_SECONDS, SILENT_SECONDS)
        while True:
            is_last, position = ended.is_set(), ("", 0)
            try:
                stream = self._core.read_namespaced_pod_log(name, self._namespace, _request_timeout=seconds, **options)
                for line in stream:
                    if not line.endswith(b"\n") and not is_last:
                        break  # the stream broke within a line
                    time, _, text = line.decode(errors="replace").rstrip("\n").partition(" ")
                    position = (time, position[1] + 1 if time == position[0] else 1)
                    if position > printed:
                        printed = position
                        say(text)
            except NotFoundException:
                return
            except ForbiddenException as error:
                self._refusals.append(error)
                return
            except (ApiException, HTTPError):
                pass
            if is_last:
                return
            ended.wait(AGAIN_SECONDS)


def say(line: str) -> None:
    """Print a line at once, whole among those of other threads."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
