"""The moments at which the other tests strike are moments of a start."""

from fnmatch import fnmatchcase

import pytest

from tests.faults.campaigns import Campaign
from tests.faults.test_asked_to_end import MOMENTS
from tests.faults.test_disk import FULL


@pytest.mark.timeout(600)
def test_every_moment_is_passed_by_an_undisturbed_start(undisturbed: Campaign) -> None:
    """The whole matrix is rarely run: a renamed file would go unseen until then."""
    patterns = [*MOMENTS.values(), *FULL.values()]
    points = undisturbed.points()
    assert [each for each in patterns if not any(fnmatchcase(point, each) for point in points)] == []
