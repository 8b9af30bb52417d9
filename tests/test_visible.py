"""What a person reads is what is there: nothing unseen, nothing that looks like another, nothing honest spoilt."""
# ruff: noqa: RUF001 - the letters that are mistaken for others are the point here

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interlock.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("p\u0430ypal", "p\\u0430ypal"),  # Cyrillic in Latin
        ("\u0440\u0430ypal", "\\u0440\\u0430ypal"),
        ("\u0441\u0447\u0435t", "\u0441\u0447\u0435\\x74"),  # a Latin letter in a Cyrillic word
        ("\u0391pple", "\\u0391pple"),  # Greek
        ("\u0581oogle", "\\u0581oogle"),  # Armenian
        ("\u13e2ayment", "\\u13e2ayment"),  # Cherokee
        ("user@\u0430\u0441\u0435.com", "user@\\u0430\\u0441\\u0435.com"),  # a word of Latin-looking Cyrillic alone
        ("\u0421\u041e\u0421\u041e", "\\u0421\\u041e\\u0421\\u041e"),
        ("\uff41dmin", "\\uff41dmin"),  # wide
        ("\U0001d41admin", "\\U0001d41admin"),  # bold
        ("\u212aelvin", "\\u212aelvin"),  # another number for K
        ("a\u037eb", "a\\u037eb"),  # and for a semicolon
        ("https:\u2215\u2215x.io\u2044y", "https:\\u2215\\u2215x.io\\u2044y"),
        ("x\u2024io\ua789443", "x\\u2024io\\ua789443"),
        ("bank\u01c3", "bank\\u01c3"),
        ("50\u0669", "50\\u0669"),  # digits of two systems
        ("v\u09ea", "v\\u09ea"),
    ],
)
def test_look_alikes_are_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\u200bb\u200cc\u200dd\u2060e\ufefff", "a\\u200bb\\u200cc\\u200dd\\u2060e\\ufefff"),
        ("\u202eexe.\u2066fdp\u2069", "\\u202eexe.\\u2066fdp\\u2069"),
        ("a\u3164b\u2800c\u115fd\uffa0", "a\\u3164b\\u2800c\\u115fd\\uffa0"),  # letters and signs that show nothing
        ("a\u034fb\ufe0fc\U000e0101\u180b", "a\\u034fb\\ufe0fc\\U000e0101\\u180b"),
        ("1\u00a0000\u2003x\u3000y", "1\\xa0000\\u2003x\\u3000y"),  # blanks that are no space
        ("soft\u00adhyphen", "soft\\xadhyphen"),
        ("\U000e0041tag", "\\U000e0041tag"),
    ],
)
def test_what_shows_nothing_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "Grüße, Ærøskøbing, naïve, Đà Nẵng, İstanbul, sınır, ŁÓDŹ, cœur, groß",
        "Оплатить счёт на рост цен, а не сосо",  # Russian, with words that look Latin
        "Привет, user A-17, ждём ответа",  # words of two scripts, none of both
        "Καλημέρα κόσμε και νοο",
        "東京タワーのT-shirtをABC株式会社で買う。한국어ABC",
        "שלום עולם، مرحبا بالعالم ١٢٣",
        "नमस्ते १२३ दुनिया",
        "5 µm, 20 °C, 10², ½, €5, “quoted” – and… ™ №5",
        "🙂 emoji 🇩🇪",
        "e\u0301 composed by a mark",
    ],
)
def test_honest_writing_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


@given(st.text(st.characters()))
def test_what_is_shown_can_be_shown_again(text: str) -> None:
    shown = visible(text)
    assert visible(shown) == shown or not shown.isascii()
    assert not any(unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") for letter in shown)
    assert all(letter == " " or unicodedata.category(letter) != "Zs" for letter in shown)
    shown.encode("utf-8")


@given(st.text(st.characters(max_codepoint=0x7E, min_codepoint=0x20)))
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_what_is_written_out_counts_towards_the_width() -> None:
    assert visible("p\u0430y" * 9, 12) == "p\\u0430yp..."
