"""The digest of weights on disk, read again only if their files may have changed. Loads torch only then."""

from collections.abc import Sequence
from pathlib import Path

from components.campaign.known_digests import KnownDigests


def weights_digest(files: Sequence[Path], known: KnownDigests) -> str:
    """Return the digest of the tensors in some files, as `loading.tensors_digest` makes it.

    Args:
        files: Safetensors files, in order of name.
        known: Digests of files that were read before.
    """

    def compute() -> str:
        from components.models.loading import tensors_digest

        return tensors_digest(files)

    return known.of_files(files, compute, what="tensors") if files else ""
