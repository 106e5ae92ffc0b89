"""Record the files of runs/<campaign>/ in MLflow. This is the only package that imports mlflow.

The files are the truth. Everything here can be repeated: a round that was recorded, or half recorded, is found by its
tags, and only what is missing is added. Importing this package loads mlflow (about two seconds), so callers import it
only when they need it.
"""

from components.tracking.cleanup import collect_copies
from components.tracking.failures import TrackingRefused, TrackingUnavailable
from components.tracking.inferred_reward import record_inferred_reward
from components.tracking.locations import artifact_root
from components.tracking.outcomes import record_outcome
from components.tracking.ownership import NameTaken
from components.tracking.recording import Tracked, announce_champion, record_round, refuse_taken_name
from components.tracking.registry import Version, read_versions
from components.tracking.store import ensure_store, tracking_uri
from components.tracking.views import compare_rounds_url, compare_url, experiment_url, is_server

__all__ = [
    "NameTaken",
    "Tracked",
    "TrackingRefused",
    "TrackingUnavailable",
    "Version",
    "announce_champion",
    "artifact_root",
    "collect_copies",
    "compare_rounds_url",
    "compare_url",
    "ensure_store",
    "experiment_url",
    "is_server",
    "read_versions",
    "record_inferred_reward",
    "record_outcome",
    "record_round",
    "refuse_taken_name",
    "tracking_uri",
]
