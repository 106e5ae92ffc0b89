"""Who starts the processes of sampling, training and evaluation, and on how many machines."""

from typing import Literal, Self

from pydantic import Field, model_validator

from components.config.section import Section


class LauncherConfig(Section):
    """Who starts the processes of sampling, training and evaluation.

    Every node must mount the directory of the campaigns and the Python environment under the same paths.
    """

    kind: Literal["local", "slurm", "ray", "kubernetes"] = "local"
    """`local`: this machine; `slurm`: `srun`, within an allocation or by one of its own; `ray`: a placement group of a
    Ray cluster that exists; `kubernetes`: a Job whose pods are copies of the pod in which the campaign runs."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs that slurm, ray and kubernetes reserve on each node; 0 asks for none."""
    cpus_per_node: int = Field(default=1, ge=1)
    """CPU cores that slurm, ray and kubernetes reserve on each node."""
    options: tuple[str, ...] = ()
    """Further options of `srun`, such as `["--partition=gpu", "--time=12:00:00"]`."""
    address: str = ""
    """Address of the Ray cluster, such as `10.0.0.5:6379`; empty takes RAY_ADDRESS, or the cluster of this machine."""
    silence_seconds: float = Field(default=120.0, ge=30.0)
    """Seconds without a sign of life after which a node counts as lost; its stage then starts again from the last
    checkpoint."""

    @model_validator(mode="after")
    def _is_read(self) -> Self:
        for name, kinds in {
            "options": ("slurm",),
            "address": ("ray",),
            "gpus_per_node": ("slurm", "ray", "kubernetes"),
            "cpus_per_node": ("slurm", "ray", "kubernetes"),
            "silence_seconds": ("slurm", "ray", "kubernetes"),
        }.items():
            # A resolved configuration names every key.
            changed = getattr(self, name) != type(self).model_fields[name].default
            if changed and self.kind not in kinds:
                raise ValueError(f"{name} does nothing under kind {self.kind}: leave it out, or set `kind: {kinds[0]}`")
        return self
