"""Suspend on the Prefect page takes effect within a stage, not only between two: a stage may run for hours."""

from prefect.context import FlowRunContext


class Suspension:
    """Ends the running stage when somebody suspended the flow run; a `components.runtime.progress.Listener`.

    What it raises is Prefect's own signal, which makes the process exit; the resumed run goes on from the last
    checkpoint.
    """

    def __init__(self) -> None:
        context = FlowRunContext.get()
        assert context is not None
        self.request = context.flow_run_suspension_request

    def began(self, round: str, stage: str) -> None:
        """Prefect itself looks between stages."""

    def advanced(self, done: int, total: int, text: str) -> None:
        """Looks; Prefect keeps the request up to date in this process."""
        self.request.raise_if_requested()

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Prefect itself looks between stages."""
