"""The page's colours: text and lines stand out from what they are on, light and dark (WCAG 2.2, 1.4.3 and 1.4.11)."""

from __future__ import annotations

import re

import pytest

from leader.web import page

STYLE = (page._STATIC / "page.css").read_text(encoding="utf-8")
TEXT = ("ink", "faint", "blue", "orange", "green", "red")
LINES = tuple(f"s{number}" for number in range(8))


def schemes() -> dict[str, dict[str, str]]:
    """The colours by name: those of a light screen, and those of a dark one."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE, re.DOTALL)
    return {
        name: dict(re.findall(r"--(\w+): (#[0-9a-f]+)", text))
        for name, text in (("light", light), ("dark", dark))
    }


def luminance(colour: str) -> float:
    """WCAG 2.2's relative luminance of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = (int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4))
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_black_on_white_is_the_largest_contrast() -> None:
    assert contrast("#000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777", "#fff") == pytest.approx(4.48, abs=0.005)  # just too little for text


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_and_lines_stand_out(name: str) -> None:
    colours = schemes()[name]
    assert {*TEXT, *LINES, "page", "card"} <= colours.keys()
    assert "opacity" not in STYLE  # which would take from it
    on_card = {ink: contrast(colours[ink], colours["card"]) for ink in (*TEXT, *LINES)}
    on_page = {ink: contrast(colours[ink], colours["page"]) for ink in TEXT}
    assert [ink for ink in TEXT if min(on_card[ink], on_page[ink]) < 4.5] == []
    assert [line for line in LINES if on_card[line] < 3.0] == []
