"""What the tests of the page share."""

import explored
import pytest


@pytest.fixture(scope="module")
def root(exported, tmp_path_factory):
    root = tmp_path_factory.mktemp("explored")
    explored.write(exported, root)
    return root
