"""Two hundred strings that do harm where they are shown raw, and what it means that a text is harmless."""

from __future__ import annotations

FORGED = "12:00:00 run finished FORGED"
_ANSI = [
    "\x1b[2J",
    "\x1b[H",
    "\x1b[31mred\x1b[0m",
    "\x1b[1A\x1b[2Kgone",
    "\x1b[?1049h",
    "\x1b[?25l",
    "\x1b[6n",
    "\x1b[c",
    "\x1b[5i",
    "\x1b[999D",
    "\x1b[8mhidden",
    "\x1b[7mreverse",
    "\x1b[10;1H",
    "\x1b[2004h",
    "\x1bc",
    "\x1b7",
    "\x1b8",
    "\x1b(0",
    "\x1b#8",
    "\x1b%G",
    "\x1b=",
    "\x1bM",
    "\x1bE",
    "\x1bN",
    "\x1b",
    "\x1b[",
    "\x1b[38;2;1;2;3mx",
    "\x1b[0K",
]
_OSC = [
    "\x1b]0;title\x07",
    "\x1b]2;title\x1b\\",
    "\x1b]8;;https://example.org\x07link\x1b]8;;\x07",
    "\x1b]52;c;aGk=\x07",
    "\x1b]4;1;?\x07",
    "\x1b]10;?\x07",
    "\x1b]50;font\x07",
    "\x1b]1337;File=:aGk=\x07",
    "\x1b]777;notify;a;b\x07",
    "\x1bP+q544e\x1b\\",
    "\x1bPtmux;\x1b\x1b]0;x\x07\x1b\\",
    "\x1b^privacy\x1b\\",
    "\x1b_app\x1b\\",
    "\x1bX sos\x1b\\",
]
_C1 = [f"{chr(code)}31mC1" for code in range(0x80, 0xA0)]
_C0 = [f"a{chr(code)}b" for code in range(0x20) if code != 0x1B] + [
    "a\x7fb",
    "\x7f\x7f\x7f",
    "gone\rover",
    "x\b\b\bq",
]
_LINES = [
    f"x\n{FORGED}",
    f"x\r{FORGED}",
    f"x\r\n{FORGED}",
    f"x\v{FORGED}",
    f"x\f{FORGED}",
    f"x\x85{FORGED}",
    f"x\u2028{FORGED}",
    f"x\u2029{FORGED}",
    f"x\x1c{FORGED}",
    f"x\x1d{FORGED}",
    f"x\x1e{FORGED}",
    "\n" * 300,
    f'x\n{{"event": "RunFinished", "reason": "{FORGED}"}}',
    f"x\n  {FORGED}",
    f"\n\n{FORGED}\n\n",
]
_BIDI = [
    f"a{chr(code)}cba" for code in (0x202A, 0x202B, 0x202C, 0x202D, 0x202E, 0x2066, 0x2067, 0x2068, 0x2069)
]
_BIDI += ["a\u200ecba", "a\u200fcba", "a\u061ccba", "\u202eexe.gpj", "\u2067" * 200]
_UNSEEN = [
    f"a{chr(code)}b" for code in (0x200B, 0x200C, 0x200D, 0x2060, 0x2061, 0x2064, 0xFEFF, 0x00AD, 0x180E)
]
_UNSEEN += [
    f"a{chr(code)}b" for code in (0x00A0, 0x2003, 0x202F, 0x3000, 0xFFF9, 0xFFFB, 0x206A, 0x206F, 0x034F)
]
_UNSEEN += [
    "".join(chr(0xE0000 + ord(letter)) for letter in "tagged"),
    "\U000e0001\U000e007f",
    "\u200b" * 500,
]
_UNASSIGNED = [
    "\ue000",
    "\uf8ff",
    "\U000f0000",
    "\U0010fffd",
    "\ufffe",
    "\uffff",
    "\U0001ffff",
    "\u0378",
    "\U0003fffd",
]
_MARKS = [
    "a" + "\u0301" * 200,
    "Z" + "\u0335\u0321\u0363" * 60,
    "\u20dd" * 50,
    "a\ufe0f" * 50,
    "\u0e33\u0e49" * 90,
]
_LONG = ["x" * 3000, "\u4e2d" * 1500, "a b " * 900, "\x1b" * 600, "\U0001f468\u200d" * 300]
_FORMATS = [
    "[red]x[/red]",
    "[/bold]",
    "[link=file:///etc]x",
    ":skull:",
    "%s%s%n",
    "%(asctime)s",
    "{}",
    "{0.__class__}",
]
_FORMATS += [
    "${HOME}",
    "$(reboot)",
    "`reboot`",
    "; rm -rf x",
    "$x^2_{",
    "\\x1b[2J",
    "\\N{BELL}",
    "<script>x</script>",
]
_DATA = [
    '"',
    '"}',
    '\\"',
    '","x":"',
    "'",
    "null",
    "NaN",
    "1e999",
    "{",
    "[[[[",
    "- a: b",
    "# x",
    "---",
    "&a *a",
    "!!x",
]
_DATA += ["=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", "'=1", "a,b;c", "", " ", "   x   "]
_NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "~root",
    "C:\\x",
    "con",
    "a/b",
    "a\0b",
    "x" * 255,
    "-rf",
    "--help",
]

#: What protobuf can carry: any string but one with lone surrogates.
NASTY = [*_ANSI, *_OSC, *_C1, *_C0, *_LINES, *_BIDI, *_UNSEEN, *_UNASSIGNED]
NASTY += [*_MARKS, *_LONG, *_FORMATS, *_DATA, *_NAMES]
#: What comes from elsewhere, such as JSON or the names of files.
SURROGATES = ["\ud800", "a\udc80b", "\udfff\ud800", "\udce9.txt"]


def unprintable(text: str) -> list[str]:
    """What in `text`, which may have lines, a terminal would act on or a reader not see."""
    return sorted({ascii(letter) for letter in text if letter != "\n" and not letter.isprintable()})


def harmful(text: str) -> list[str]:
    """The same, and lines that pass for others than they are."""
    return unprintable(text) + [line for line in text.split("\n") if line.lstrip().startswith(FORGED)]
