"""A few of the inputs that `python -m benchmarks.fuzz` feeds to the loaders, and those that once crashed one."""

import pytest

from benchmarks.fuzz import LOADERS, fuzz


@pytest.mark.parametrize("name", LOADERS)
def test_damaged_inputs_are_taken_or_refused_in_a_line(name: str) -> None:
    found = fuzz(name, 100)
    assert found.crashes == {}
    assert found.inputs == found.refused + found.accepted >= 100
    assert found.refused > 20
