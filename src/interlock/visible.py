"""Visible: foreign text in one line, as a person may read it: what can't be seen, and what looks like something else,
is written out as `\\u....`. Knows nothing of interlock.

What models, tools and other people wrote may hold characters that rewrite a terminal, that turn the reading direction,
that have no width, or that look like others, as a Cyrillic "a" in "paypal". Who approves a call must see which it is.

The facts are Unicode's. Categories, names and decompositions come with Python's `unicodedata`. What counts as a
look-alike follows Unicode Technical Standard 39, "Unicode Security Mechanisms": words of more than one script, with the
mixtures that East Asian writing needs allowed (its "highly restrictive" level, section 5.2), digits of several systems
(5.3), and words made only of letters that look like another script's (from its data file `confusables.txt`). Characters
without a look of their own are what the Unicode Character Database calls `Default_Ignorable_Code_Point`.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"})  # control, format (bidi too), surrogates, blanks
_BLANK = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
    + "".join(chr(code) for code in (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
"""Letters, marks and symbols that show nothing."""

_LIKE_ASCII = frozenset("Ɩǀǃɑɡɩɪᴄᴏᴠᴡᴢꜱꭎꭒ" + "⁄∕⧸⟋╱〳᜵" + "∖⧵⧹⟍" + "ː˸։׃∶꞉⁚︰" + "․")  # noqa: RUF001 - that's the point
"""Letters and signs that look like an ASCII letter, a slash, a colon or a dot, and are rarely meant."""

_TWINS = {
    "CYRILLIC": frozenset("ЅІЈАВЕЗКМНОРСТУХЬабгеорсухѕіјѡѴѵҮүһҽӀӏӠԁԌԛԜԝ"),  # noqa: RUF001
    "GREEK": frozenset("ͿΑΒΕΖΗΙΚΜΝΟΡΤΥΧαγινορσυϒϜϱϲϳϹϺ"),  # noqa: RUF001
    "ARMENIAN": frozenset("ՍՏՕագզհոռսցքօ"),  # noqa: RUF001
    "CHEROKEE": frozenset("ᎠᎡᎢᎥᎩᎪᎫᎬᎳᎷᎻᎽᏀᏂᏃᏎᏏᏒᏔᏕᏙᏚᏞᏟᏢᏦᏧᏮᏳᏴꭵꮁꮃꮓꮩꮪꮯ"),  # noqa: RUF001
}
"""Letters that look like a Latin letter or a digit."""

_TOGETHER = frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"})
"""Scripts that one word may mix."""

_SCRIPTLESS = frozenset({"MODIFIER", "MICRO", "FEMININE", "MASCULINE", "KATAKANA-HIRAGANA", "IDEOGRAPHIC", "VERTICAL"})
_WORD = re.compile(r"\w+")


def visible(text: object, width: int | None = None) -> str:
    """Text in one line, every control, escape, direction, blank and look-alike character written out; at most `width`
    long."""
    line = str(text)
    if not line.isascii():
        line = _unambiguous(line)
    elif not line.isprintable():
        line = "".join(_shown(letter) for letter in line)
    return line if width is None or len(line) <= width else line[: max(0, width - 3)] + "..."


def _unambiguous(line: str) -> str:
    deceptive = _look_alikes(line)
    return "".join(
        _escaped(letter) if at in deceptive else letter if letter.isascii() and letter.isprintable() else _shown(letter)
        for at, letter in enumerate(line)
    )


def _shown(letter: str) -> str:
    hidden = unicodedata.category(letter) in _HIDDEN and letter != " "
    return _escaped(letter) if hidden or letter in _BLANK or letter in _LIKE_ASCII or _dressed(letter) else letter


def _escaped(letter: str) -> str:
    if letter in _NAMED:
        return _NAMED[letter]
    code = ord(letter)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _dressed(letter: str) -> bool:
    """Is it an ASCII character in other clothes: bold, wide, or another number for the same sign?"""
    if letter.isascii():
        return False
    clothes = unicodedata.decomposition(letter)
    plain = clothes.startswith(("<font>", "<wide>")) or (clothes and not clothes.startswith("<"))
    return bool(plain) and unicodedata.normalize("NFKC", letter).isascii()


# -- words ------------------------------------------------------------------------------------------------------------


def _look_alikes(line: str) -> set[int]:
    """Where a letter or digit stands that isn't of its word's script, or a word that only looks like Latin."""
    found: set[int] = set()
    disguised: dict[str, set[int]] = {}
    honest: set[str] = set()
    for word in _WORD.finditer(line):
        scripts = {at: _script(line[at]) for at in range(*word.span())}
        kinds = {script for script in scripts.values() if script}
        if len(kinds) > 1 and not kinds <= _TOGETHER:
            own = _main(list(scripts.values()), kinds)
            found |= {at for at, script in scripts.items() if script and script not in own}
        elif len(kinds) == 1:
            (kind,) = kinds
            letters = [at for at, script in scripts.items() if script]
            if all(line[at] in _TWINS.get(kind, ()) for at in letters):
                disguised.setdefault(kind, set()).update(letters)
            else:
                honest.add(kind)
        found |= _foreign_digits(line, word.start(), word.end(), bool(kinds & {"LATIN"}))
    for kind, places in disguised.items():
        if kind not in honest:  # else the text is written in that script: "рост" beside "цена" is Russian
            found |= places
    return found


def _main(scripts: list[str], kinds: set[str]) -> frozenset[str]:
    """The scripts that a mixed word is written in: those of most of its letters, Latin first among equals."""
    together = sum(script in _TOGETHER for script in scripts)
    others = kinds - _TOGETHER
    most = max(sorted(others), key=scripts.count)
    return _TOGETHER if together >= scripts.count(most) else frozenset({most})


def _foreign_digits(line: str, first: int, last: int, latin: bool) -> set[int]:
    """Digits of another system beside Latin letters or ASCII digits, in one word."""
    digits = [at for at in range(first, last) if unicodedata.category(line[at]) == "Nd"]
    foreign = {at for at in digits if not line[at].isascii()}
    return foreign if latin or len(foreign) < len(digits) else set()


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    """The script of a letter, by its name; empty for what belongs to none."""
    if unicodedata.category(letter)[0] != "L":
        return ""
    script = unicodedata.name(letter, "").split(" ")[0]
    return "" if script in _SCRIPTLESS or _dressed(letter) else script.partition("-")[0]
