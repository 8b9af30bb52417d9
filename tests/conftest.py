"""What all tests share: no network but loopback, one printed seed for chance, and hypothesis told how long to look.

Knows nothing of interlock: what is under test is imported by the tests.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import hypothesis
import pytest

from tests import loopback
from tests.replaying import REPLAYS

SEED = int(os.environ.get("INTERLOCK_TEST_SEED") or random.SystemRandom().randrange(1_000_000_000))

# Suites that several test modules inherit explain a failed assert as the modules themselves do.
pytest.register_assert_rewrite("tests.store.contract")

hypothesis.settings.register_profile(
    "interlock",
    deadline=None,  # two shared cores: a slow example says nothing about the code
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],  # for the same reason
)
hypothesis.settings.load_profile("interlock")


def pytest_report_header() -> str:
    return f"interlock: INTERLOCK_TEST_SEED={SEED}"


@pytest.fixture
def seed() -> int:
    """The seed of this session's chance, shown with a failure; INTERLOCK_TEST_SEED replays it."""
    print(f"INTERLOCK_TEST_SEED={SEED}")
    return SEED


@pytest.fixture
def chance(seed: int) -> random.Random:
    """A source of chance that starts anew from the session's seed in each test."""
    return random.Random(seed)


@pytest.fixture(autouse=True)
def replays(request: pytest.FixtureRequest) -> Iterator[None]:
    """After the test, the runs of its stages are replayed and must be exact, unless it says why they can't be."""
    marker = request.node.get_closest_marker("replay_differs")
    REPLAYS.exempt = marker.args[0] if marker else ""
    yield
    REPLAYS.all()


loopback.only()
