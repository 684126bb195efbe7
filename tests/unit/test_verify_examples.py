"""The examples in the docstrings of what others call."""

from __future__ import annotations

import doctest
from types import ModuleType

import pytest

from sgsd.verify import custom, final_answer, grader, protocol
from sgsd.verify.math import equivalence


@pytest.mark.parametrize("module", [custom, final_answer, grader, protocol, equivalence], ids=lambda m: m.__name__)
def test_the_examples_are_true(module: ModuleType) -> None:
    failed, attempted = doctest.testmod(module)
    assert attempted
    assert not failed
