"""What somebody set on the Prefect page, so that deploying again leaves it as it is.

What differs on the server from what the file said when it was last deployed was set by a person, and stays. Everything
else is taken from the file.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, NoSchedule, RRuleSchedule

VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")
ALL = ("parameters", "description", "tags")
"""Fields that are taken from the file, or from the page, as a whole."""
TIMES = ("cron", "interval", "rrule", "timezone", "day_or")


class Edited:
    """Decides, field by field, between a deployment of the file and the one on the server."""

    def __init__(self, deployed: Mapping[str, str] | None, environment: Mapping[str, str]) -> None:
        """Take what is known of the last deployment.

        Args:
            deployed: Digests of what the file said then, by field; None if that is not known.
            environment: What `{{ $NAME }}` stands for.
        """
        self.deployed, self.environment = deployed, environment
        self.said: dict[str, str] = {}
        """Digests of what the file says now, by field."""
        self.kept: list[str] = []
        """Fields that stay as they are on the server."""

    def choose(self, field: str, ours: Any, theirs: Any, *, if_unknown: bool = True) -> Any:
        """Return the file's value of a field, or the server's if a person set it.

        Args:
            field: Name of the field.
            ours: The file's value; None if it has none.
            theirs: The server's value; None if it has none.
            if_unknown: Whether a value that differs counts as a person's if nothing is known of the last deployment.
        """
        ours_now = self._filled(ours)
        if ours is not None:
            self.said[field] = _digest(ours_now)
        before = None if self.deployed is None else self.deployed.get(field)
        by_person = if_unknown if self.deployed is None else _digest(theirs) != (before or _digest(None))
        if ours_now == theirs or not by_person:
            return ours
        self.kept.append(field)
        return theirs

    def _filled(self, value: Any) -> Any:
        if isinstance(value, str):
            return VARIABLE.sub(lambda match: self.environment.get(match[1], match[0]), value)
        if isinstance(value, list):
            return [self._filled(item) for item in value]
        return {key: self._filled(item) for key, item in value.items()} if isinstance(value, dict) else value


def merged(entry: Mapping[str, Any], server: DeploymentResponse | None, edited: Edited) -> dict[str, Any]:
    """Return a deployment of the file with what a person set on the server.

    Args:
        entry: The deployment, as the file has it; each schedule has a slug.
        server: The deployment on the server; None if it is not there.
        edited: Decides, and takes down what stays.
    """
    result = deepcopy(dict(entry))
    for field in ALL:
        ours = entry.get(field) or None
        chosen = edited.choose(field, ours, ours if server is None else getattr(server, field) or None)
        result[field] = chosen or {"parameters": {}, "tags": []}.get(field, "")
    schedules, variables = ([], {}) if server is None else (server.schedules, server.job_variables)
    result["schedules"] = list(_schedules(entry.get("schedules") or [], schedules, edited, is_new=server is None))
    pool = result.setdefault("work_pool", {})
    pool["job_variables"] = _nested("job_variables", pool.get("job_variables") or {}, variables, edited)
    return result


def _nested(place: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], edited: Edited) -> dict[str, Any]:
    """Return job variables, chosen key by key; where runs write is the file's if nothing else is known."""
    result = {}
    for key in dict.fromkeys([*ours, *theirs]):
        own, other, field = ours.get(key), theirs.get(key), f"{place}.{key}"
        if isinstance(own or other, Mapping):
            value: Any = _nested(field, own or {}, other or {}, edited)
        else:
            value = edited.choose(field, own, other, if_unknown=own is None)
        if value is not None:
            result[key] = value
    return result


def _schedules(
    ours: list[dict[str, Any]], theirs: list[DeploymentSchedule], edited: Edited, *, is_new: bool
) -> Iterator[dict[str, Any]]:
    known = {schedule.slug: _as_in_a_file(schedule) for schedule in theirs if schedule.slug}
    for entry in ours:
        slug, written = str(entry["slug"]), _normal(entry)
        field, server = f"schedules.{slug}", known.get(str(entry["slug"]))
        is_there = is_new or server is not None
        if edited.choose(field, slug, slug if is_there else None, if_unknown=False) is None:
            continue  # a person removed it
        present = written if server is None else server
        chosen = {
            key: edited.choose(f"{field}.{key}", written.get(key), present.get(key))
            for key in (*TIMES, "active", "parameters")
        }
        # Prefect gives an interval the day of its deployment as its beginning.
        chosen["anchor_date"] = written.get("anchor_date") or present.get("anchor_date")
        yield {key: value for key, value in (written | chosen).items() if value is not None}
    named = {str(entry["slug"]) for entry in ours}
    for schedule in theirs:
        # One that the file had when it was last deployed, and has no longer, goes.
        field = f"schedules.{schedule.slug}"
        if schedule.slug not in named and field not in (edited.deployed or {}):
            edited.kept.append(field if schedule.slug else "a schedule without a slug")
            yield _as_in_a_file(schedule)


def _normal(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a schedule of a file as it comes back from the server."""
    values = {"timezone": "UTC", "active": True, "parameters": {}} | dict(entry)
    return values | ({"day_or": entry.get("day_or", True)} if "cron" in entry else {})


def _as_in_a_file(schedule: DeploymentSchedule) -> dict[str, Any]:
    times, values = schedule.schedule, dict[str, Any]()
    if isinstance(times, CronSchedule):
        values = {"cron": times.cron, "day_or": times.day_or}
    elif isinstance(times, IntervalSchedule):
        values = {"interval": times.interval.total_seconds(), "anchor_date": times.anchor_date.isoformat()}
    elif isinstance(times, RRuleSchedule):
        values = {"rrule": times.rrule}
    timezone = None if isinstance(times, NoSchedule) else times.timezone
    values |= {"timezone": timezone or "UTC", "active": schedule.active, "parameters": schedule.parameters}
    return values | ({"slug": schedule.slug} if schedule.slug else {})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
