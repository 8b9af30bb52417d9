"""What people are shown: figures that say something, and foreign text that can't touch their terminal."""

from __future__ import annotations

import unicodedata
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.cli.wording import by_when, duration, money, quantity, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b31m", "\\x9b31m"),
        ("a\r\nb\tc", "a\\r\\nb\\tc"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\ud800", "\\ud800"),
        ("\x00\x07\x7f", "\\x00\\x07\\x7f"),
        ("\u2028", "\\u2028"),
        ("Grüße, 東京", "Grüße, 東京"),
    ],
)
def test_control_and_escape_characters_are_made_visible(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(st.characters()))
def test_nothing_shown_can_move_a_cursor(text: str) -> None:
    shown = visible(text)
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in shown)
    shown.encode("utf-8")


def test_a_time_on_another_day_is_told_with_its_date() -> None:
    noon = int(datetime(2026, 3, 1, 12, 0, 0).timestamp() * 1000)
    assert by_when(noon + 3_600_000, noon) == "13:00:00"
    assert by_when(noon + 86_400_000, noon) == "2026-03-02 12:00:00"


def test_long_text_is_cut() -> None:
    assert visible("x" * 100, 10) == "xxxxxxx..."


@pytest.mark.parametrize(
    ("nano", "shown"),
    [(0, "0"), (21_000_000, "0.021"), (470_000_000, "0.47"), (12_345_000_000, "12.35"), (250, "0.00000025")],
)
def test_money(nano: int, shown: str) -> None:
    assert money(nano) == shown


@pytest.mark.parametrize(("count", "shown"), [(80, "80"), (1_200, "1.2k"), (14_100, "14.1k"), (3_000_000, "3M")])
def test_quantities(count: int, shown: str) -> None:
    assert quantity(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.084, "84 ms"), (2.14, "2.1 s"), (61, "61 s"), (840, "14 min"), (85_560, "23 h 46")]
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
