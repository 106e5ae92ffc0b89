"""Define the look of an experiment and the addresses of its pages: the view with the rounds side by side, and colours.

By default MLflow's pages show no metric in the table and sort the charts by name. They store a shared view as a tag of
the experiment; this module writes such a tag. The format is that of MLflow 3.17's "Save as new view".
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from components.campaign.files import compare_page
from components.runtime.addresses import without_password

PAGE_VARIABLE = "RATCHET_MLFLOW_PAGE"
"""Variable with the address under which browsers know the MLflow server, if workers know it by another one."""
VIEW_KEY = "rounds"
_TAG = f"mlflow.sharedViewState.{VIEW_KEY}"
_COLOURS = [
    "#1f77b4",
    "#ff7f0e",
    "#2ca02c",
    "#d62728",
    "#9467bd",
    "#8c564b",
    "#e377c2",
    "#17becf",
    "#bcbd22",
    "#7f7f7f",
]
_FIXED_COLUMNS = ["0", "attributes.`Run Name`", "runDateAndNestInfo"]
_ROUNDS = ["win_rate_vs_start", "win_rate_vs_champion", "mean_reward", "kl_to_start", "mean_tokens", "num_pairs"]
_TRAINING = [
    "loss",
    "rewards/margins",
    "rewards/accuracies",
    "rewards/chosen",
    "rewards/rejected",
    "logps/chosen",
    "logps/rejected",
]


def colour(number: int | None) -> str:
    """Return the colour of a round's run in the charts; neighbours differ clearly. None is the run `campaign`."""
    return "#333333" if number is None else _COLOURS[(number - 1) % len(_COLOURS)]


def view_tag(created_ms: int) -> tuple[str, str]:
    """Return key and value of the experiment's tag that holds the view.

    Args:
        created_ms: Unix time, in ms, that MLflow shows as the view's age.
    """
    columns = ["tags.`promoted`", *(f"metrics.`{name}`" for name in _ROUNDS), "attributes.`Models`"]
    sections = {"By round": _ROUNDS, "By training step": _TRAINING}
    state = {
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": [*_FIXED_COLUMNS, *columns, "duration"],
        "columnWidths": {f"metrics.`{name}`": 30 + 7 * len(name) for name in _ROUNDS},
        "runsHiddenMode": "FIRST_20_RUNS",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [_section(title) for title in sections],
        "compareRunCharts": [chart for title, names in sections.items() for chart in _charts(title, names)],
    }
    return _TAG, json.dumps(
        {"name": "Rounds", "createdAt": created_ms, "updatedAt": created_ms, "state": json.dumps(state)}
    )


def _section(title: str) -> dict[str, Any]:
    # With MLflow's default of three columns a laptop shows only seven letters of a chart's name.
    return {
        "uuid": title,
        "name": title,
        "display": True,
        "columns": 2,
        "isReordered": True,
        "deleted": False,
        "isGenerated": False,
    }


def _charts(section: str, names: Sequence[str]) -> list[dict[str, Any]]:
    common = {
        "type": "LINE",
        "runsCountToCompare": 20,
        "metricSectionId": section,
        "deleted": False,
        "isGenerated": False,
        "lineSmoothness": 0,
        "xAxisScaleType": "linear",
        "scaleType": "linear",
        "range": {},
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "ignoreOutliers": False,
        "useGlobalXaxisKey": True,
        "useGlobalLineSmoothing": True,
    }
    return [common | {"uuid": name, "metricKey": name, "displayName": name} for name in names]


def is_server(uri: str) -> bool:
    """Return whether a store is an MLflow server, which has pages, and not a database that is opened directly."""
    return uri.startswith(("http://", "https://"))


def experiment_url(uri: str, experiment_id: str) -> str:
    """Return the page that shows a campaign's rounds side by side, if `uri` is an MLflow server's address.

    Else return `uri`, which has no pages.
    """
    # Without the work flow in the address, a fresh browser opens the overview of traces, despite the experiment's tags.
    return _page(uri, f"experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_KEY}")


def compare_url(uri: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """Return the page that shows runs side by side, if `uri` is an MLflow server's address; else return `uri`."""
    return compare_rounds_url(uri, [(experiment_id, run_id) for run_id in run_ids])


def compare_rounds_url(uri: str, rounds: Sequence[tuple[str, str]]) -> str:
    """Return the page of `compare_url` for runs of several experiments.

    Args:
        uri: Address of the store.
        rounds: Ids of experiment and run, in the order of the page's columns.
    """
    return _page(uri, compare_page(rounds))


def _page(uri: str, path: str) -> str:
    address = without_password(uri)
    if not is_server(uri):
        return address
    return f"{(os.environ.get(PAGE_VARIABLE) or address).rstrip('/')}/#/{path}"
