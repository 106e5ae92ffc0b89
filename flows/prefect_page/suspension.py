"""Suspend on the Prefect page, made to take effect within a stage, which may run for hours, not only between two."""

from prefect.context import FlowRunContext


class Suspension:
    """End the running stage when somebody suspends the flow run; a `components.runtime.progress.Listener`.

    It raises Prefect's own signal, which makes the process exit; the resumed run continues from the last checkpoint.
    """

    def __init__(self) -> None:
        context = FlowRunContext.get()
        assert context is not None
        self.request = context.flow_run_suspension_request

    def began(self, round: str, stage: str) -> None:
        """Do nothing: Prefect itself checks between stages."""

    def advanced(self, done: int, total: int, text: str) -> None:
        """Raise Prefect's signal if somebody asked for it; Prefect keeps the request up to date in this process."""
        self.request.raise_if_requested()

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        """Do nothing: Prefect itself checks between stages."""
