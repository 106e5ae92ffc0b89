"""The door of promotion: applies the gate to the evaluation and writes the decision."""

from pathlib import Path

from components.artifacts import read_json, write_json
from components.promotion.gate import decide
from components.records import PromoteRequest


def run(request: PromoteRequest, out: Path) -> None:
    """Write `decision.json`."""
    decision = decide(read_json(request.evaluation.path), request.gate, request.regression)
    write_json(out / "decision.json", {"promoted": decision.promoted, "reasons": list(decision.reasons)})
