"""The files of sql/functions as tokens, as far as the operators need to understand them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from service.paths import FUNCTIONS

_TOKEN = re.compile(
    r"""
    (?P<space>\s+|--[^\n]*|\#[a-z_]+\ [a-z_]+)  # and an option of the compiler
    |(?P<string>'(?:[^']|'')*')
    |(?P<word>[A-Za-z_]\w*|"[^"]+")
    |(?P<number>\d+)
    |(?P<sign>:=|=>|::|\.\.|<=|>=|<>|!~|@>|&&|\|\||->>|->|\#>>|\#>|[-+*/<>=~^%&|().,;\[\]:])
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"^CREATE OR REPLACE (?:FUNCTION|PROCEDURE) ([\w.]+)", re.MULTILINE)
_BODY = re.compile(r"\bAS \$\$(.*)\$\$;", re.DOTALL)
_OTHER_END = re.compile(r"\s+(?:IF|LOOP)\b")
_CALL = re.compile(r"\b((?:credits|gifts)\.\w+)\s*\(")
_WRITE = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM) ((?:credits|gifts)\.\w+)")


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of code; no space, no comment."""

    kind: str
    text: str
    start: int
    end: int
    depth: int  # how many parentheses, brackets and CASEs are open around it

    @property
    def upper(self) -> str:
        """What a keyword is compared by; a string is no keyword."""
        return "" if self.kind == "string" else self.text.upper()


@dataclass(frozen=True)
class Function:
    """A function's file."""

    name: str  # with its schema
    text: str
    start: int  # of the body
    end: int
    tokens: tuple[Token, ...] = field(repr=False)

    @property
    def body(self) -> str:
        """What is between the dollar quotes."""
        return self.text[self.start : self.end]

    @cached_property
    def code(self) -> str:
        """The body without comments and strings."""
        return " ".join(token.text for token in self.tokens if token.kind != "string")

    @cached_property
    def calls(self) -> frozenset[str]:
        """The functions that the body names, itself apart."""
        code = self.code.replace(" . ", ".")
        return frozenset(_CALL.findall(code)) - {self.name}

    @cached_property
    def writes(self) -> frozenset[str]:
        """The tables that the body itself writes."""
        return frozenset(_WRITE.findall(self.code.replace(" . ", ".")))


def parse(text: str) -> Function:
    """Read the text of a function's file."""
    name, body = _NAME.search(text), _BODY.search(text)
    assert name is not None
    assert body is not None
    start, end = body.span(1)
    return Function(name[1], text, start, end, tuple(_tokens(text, start, end)))


def _tokens(text: str, start: int, end: int) -> Iterator[Token]:
    opened: list[str] = []
    before = ""
    while start < end:
        match = _TOKEN.match(text, start, end)
        assert match is not None, text[start : start + 20]
        start = match.end()
        kind, value = match.lastgroup, match[0]
        assert kind is not None
        if kind == "space":
            continue
        word = "" if kind == "string" else value.upper()
        ends_case = word == "END" and opened[-1:] == ["CASE"] and not _OTHER_END.match(text, start)
        if word in {")", "]"} or ends_case:
            opened.pop()
        # What opens and what closes are of the depth around them.
        yield Token(kind, value, match.start(), match.end(), len(opened))
        if word in {"(", "["} or (word == "CASE" and before != "END"):
            opened.append(word)
        before = word
    assert not opened


def read_functions(folder: Path = FUNCTIONS) -> dict[str, Function]:
    """Every function of sql/functions by its name."""
    found = {}
    for path in sorted(folder.glob("*/*.sql")):
        text = path.read_text("utf-8")
        if _BODY.search(text):
            function = parse(text)
            found[function.name] = function
    return found
