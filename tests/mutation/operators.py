"""What can be broken in a function: each operator yields the edits of one kind, one at a time."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.mutation.sqltext import Function, Token, parse

Tokens = Sequence[Token]


@dataclass(frozen=True, slots=True)
class Edit:
    """A place in a function's file, and what stands there instead."""

    start: int
    end: int
    instead: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """A function with one thing broken."""

    id: str  # function/operator/number, counted within the function
    function: str
    operator: str
    line: int
    change: str
    sql: str

    @property
    def is_about_locks(self) -> bool:
        """Whether only callers who meet can tell the difference."""
        return self.operator in {"unlock", "wait", "unlocked-call"}


_ENDS = {
    "THEN", "ORDER", "GROUP", "LIMIT", "FOR", "RETURNING", "UNION", "WINDOW", "DO", "WHEN", "ELSE",
    "AS", "INTO", "FROM", "WHERE", "LOOP", "INNER", "LEFT", "FULL", "CROSS", "HAVING", "SET",
    "VALUES", ";", ",",
}  # fmt: skip
_STARTS = {
    "WHERE", "IF", "ELSIF", "WHEN", "ON", "HAVING", "THEN", "ELSE", "SELECT", "RETURN", ",", ":=",
    "=>", ";", "AND", "OR",
}  # fmt: skip
_NO_OPERAND = _STARTS | {"(", "[", "BETWEEN", "BY", "CASE", "<", ">", "=", "<=", ">=", "<>"}
_BOUNDARY = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}
_EQUALITY = {"=": "<>", "<>": "="}


def mutants(function: Function, functions: Mapping[str, Function]) -> list[Mutant]:
    """Every mutant of a function, in the order of its text; `functions` for what it calls."""
    found: list[tuple[int, str, tuple[Edit, ...], str]] = [
        (edits[0].start, operator, edits, "")
        for operator, finds in _OPERATORS.items()
        for edits in finds(function)
    ]
    for edit, twins in _unlocked_calls(function, functions):
        found.append((edit.start, "unlocked-call", (edit,), twins))
    found.sort(key=lambda item: item[0])
    numbers: Counter[str] = Counter()
    made = []
    for start, operator, edits, twins in found:
        numbers[operator] += 1
        made.append(
            Mutant(
                id=f"{function.name}/{operator}/{numbers[operator]}",
                function=function.name,
                operator=operator,
                line=function.text.count("\n", 0, start) + 1,
                change=_describe(function.text, edits),
                sql=twins + apply(function.text, edits),
            )
        )
    return made


def apply(text: str, edits: Sequence[Edit]) -> str:
    """The text with the edits made."""
    for edit in sorted(edits, key=lambda one: one.start, reverse=True):
        text = text[: edit.start] + edit.instead + text[edit.end :]
    return text


def _describe(text: str, edits: Sequence[Edit]) -> str:
    """What is changed, and the line in which that is where it does not say enough by itself."""
    parts = []
    for edit in edits:
        before, after = _on_one_line(text[edit.start : edit.end]), _on_one_line(edit.instead)
        both = f"{before} → {after}"
        parts.append(both if before and after else f"without {before}" if before else f"+ {after}")
    what = ", ".join(dict.fromkeys(parts))
    first = edits[0]
    line = text[text.rfind("\n", 0, first.start) + 1 :].partition("\n")[0].strip()
    return what if line in what or len(what) > 50 else f"{what}, in: {line}"


def _on_one_line(text: str) -> str:
    line = " ".join(re.sub(r"--[^\n]*", "", text).split())
    return line if len(line) <= 90 else f"{line[:50]} … {line[-37:]}"


def _replace(first: Token, last: Token, instead: str) -> tuple[Edit]:
    return (Edit(first.start, last.end, instead),)


# Where something begins and ends


def _end_of_operand(tokens: Tokens, start: int, *more: str) -> int:
    """The index behind an expression that begins at `start`."""
    depth = tokens[start].depth
    for index in range(start, len(tokens)):
        token = tokens[index]
        # A parenthesis or CASE that the expression opens has closed before it comes back to its
        # depth; the one around it closes at a lower one.
        if token.depth < depth:
            return index
        is_distinct = _words(tokens, index - 1, 2) == "DISTINCT FROM"
        if token.depth == depth and not is_distinct and token.upper in {*_ENDS, *more}:
            return index
    return len(tokens)


def _start_of_operand(tokens: Tokens, end: int, starts: set[str]) -> int:
    """The index of the first token of an expression that ends before `end`."""
    depth = tokens[end].depth
    index = end
    while index > 0:
        before = tokens[index - 1]
        if before.depth < depth:
            return index
        is_bound = before.upper == "AND" and _belongs_to_between(tokens, index - 1)
        if before.depth == depth and before.upper in starts and not is_bound:
            return index
        index -= 1
    return index


def _end_of_statement(tokens: Tokens, start: int) -> int:
    return next((i for i in range(start, len(tokens)) if tokens[i].text == ";"), len(tokens))


def _end_of_call(tokens: Tokens, opening: int) -> int:
    """The index of the parenthesis that closes the one at `opening`."""
    depth = tokens[opening].depth
    return next(
        i
        for i in range(opening + 1, len(tokens))
        if tokens[i].text == ")" and tokens[i].depth == depth
    )


def _words(tokens: Tokens, start: int, count: int) -> str:
    return " ".join(token.upper for token in tokens[start : start + count])


def _callee(tokens: Tokens, index: int) -> str:
    """The function that is called at `index`, with its schema; empty where none is."""
    if [t.text for t in tokens[index + 1 : index + 4 : 2]] == [".", "("]:
        return f"{tokens[index].text}.{tokens[index + 2].text}"
    return ""


# The operators


def _lock_clauses(tokens: Tokens) -> Iterator[tuple[int, int]]:
    for index in range(len(tokens)):
        for clause in ("FOR UPDATE", "FOR SHARE", "FOR KEY SHARE", "FOR NO KEY UPDATE"):
            length = clause.count(" ") + 1
            if _words(tokens, index, length) == clause:
                yield index, index + length


def _unlock(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Drop a row lock."""
    tokens = function.tokens
    for first, end in _lock_clauses(tokens):
        yield _replace(tokens[first], tokens[_last_of_lock(tokens, end)], "")


def _last_of_lock(tokens: Sequence[Token], end: int) -> int:
    """Where a lock clause ends whose words before `SKIP LOCKED` or `NOWAIT` end before `end`."""
    if _words(tokens, end, 2) == "SKIP LOCKED":
        return end + 1
    return end if _words(tokens, end, 1) == "NOWAIT" else end - 1


def _wait(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Wait for a row that is locked, rather than passing over it."""
    tokens = function.tokens
    for _first, end in _lock_clauses(tokens):
        if _words(tokens, end, 2) == "SKIP LOCKED":
            yield _replace(tokens[end], tokens[end + 1], "")


def _unlocked_calls(
    function: Function, functions: Mapping[str, Function]
) -> Iterator[tuple[Edit, str]]:
    """Call a twin of a lock's helper, which does the same without locking."""
    for index, token in enumerate(function.tokens):
        callee = _callee(function.tokens, index)
        if "._lock_" in callee:
            edit = Edit(token.start, function.tokens[index + 2].end, _twin_of(callee))
            yield edit, _twin(callee, functions)


def _twin_of(name: str) -> str:
    return name.replace("._lock_", "._see_")


def _twin(name: str, functions: Mapping[str, Function]) -> str:
    """The definition of a lock's helper that locks nothing, and of those that it calls."""
    helper = functions[name]
    edits = [edit for (edit,) in _unlock(helper)]
    others = ""
    for edit, twin in _unlocked_calls(helper, functions):
        edits.append(edit)
        others += twin
    text = apply(helper.text, edits)
    return others + text[: text.index("COMMENT ON")].replace(name, _twin_of(name), 2) + "\n"


_GUARD = re.compile(r"\._(?!lock_|write_notice|revive_)")


def _skip(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Leave out a check, a refusal, or another step whose result is not used."""
    tokens = function.tokens
    for index, token in enumerate(tokens):
        is_step = token.upper == "PERFORM" and _GUARD.search(_callee(tokens, index + 1))
        is_refusal = token.upper == "RAISE" and tokens[index + 1].upper not in {"WARNING", "NOTICE"}
        if is_step or is_refusal:
            yield _replace(token, tokens[_end_of_statement(tokens, index) - 1], "NULL")


def _conditions(tokens: Tokens, *words: str) -> Iterator[tuple[int, int]]:
    """The conditions behind these words, as ranges of tokens."""
    for index, token in enumerate(tokens):
        if token.upper not in words or _words(tokens, index - 1, 2) in {"END IF", "END CASE"}:
            continue
        end = _end_of_operand(tokens, index + 1)
        is_literal = end == index + 2 and tokens[index + 1].kind == "string"
        is_handler = any(t.upper in {"OTHERS", "SERIALIZATION_FAILURE"} for t in tokens[index:end])
        if not is_literal and not is_handler:
            yield index + 1, end


def _only_refuses(tokens: Tokens, then: int) -> bool:
    """Whether the branch behind a THEN is one refusal, which `skip` leaves out as well."""
    end = _end_of_statement(tokens, then)
    if end == len(tokens):  # a function in plain SQL, whose CASE it is
        return False
    refuses = tokens[then + 1].upper == "RAISE" or (
        tokens[then + 1].upper == "PERFORM" and _GUARD.search(_callee(tokens, then + 2))
    )
    return bool(refuses) and tokens[end + 1].upper in {"END", "ELSIF", "ELSE"}


def _never(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Never take a branch."""
    tokens = function.tokens
    for first, end in _conditions(tokens, "IF", "ELSIF", "WHEN"):
        if not (tokens[end].upper == "THEN" and _only_refuses(tokens, end)):
            yield _replace(tokens[first], tokens[end - 1], "false")


def _compare(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Move a boundary by one, or turn an equality around in a condition of several parts."""
    tokens = function.tokens
    several = [
        (first, end)
        for first, end in _conditions(tokens, "IF", "ELSIF", "WHEN")
        if any(t.upper in {"AND", "OR"} for t in tokens[first:end])
    ]
    for index, token in enumerate(tokens):
        if token.text in _BOUNDARY:
            if not _never_equal(tokens, index):
                yield _replace(token, token, _BOUNDARY[token.text])
        elif token.text in _EQUALITY and any(first < index < end for first, end in several):
            # Those of a subquery in the condition belong to its WHERE.
            if not any(t.upper == "WHERE" for t in _before_in_parentheses(tokens, index)):
                yield _replace(token, token, _EQUALITY[token.text])
        elif _words(tokens, index, 3) == "IS DISTINCT FROM":
            yield _replace(token, tokens[index + 2], "IS NOT DISTINCT FROM")


def _never_equal(tokens: Tokens, index: int) -> bool:
    """Whether a side is the time at which the function itself has read the clock.

    No test can hit that microsecond. How long a text may be is passed over too: it moves nothing.
    """
    start = _start_of_operand(tokens, index, _STARTS)
    end = _end_of_operand(tokens, index, "AND", "OR")
    said = {token.text for token in tokens[start:end]}
    return bool(said & {"v_now", "v_before", "v_until", "char_length", "octet_length"})


def _before_in_parentheses(tokens: Tokens, index: int) -> Iterator[Token]:
    depth = tokens[index].depth
    while index > 0 and tokens[index - 1].depth >= depth > 0:
        index -= 1
        yield tokens[index]


def _bound(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Widen a BETWEEN by one, at either end."""
    tokens = function.tokens
    for index, token in enumerate(tokens):
        if token.upper != "BETWEEN" or _never_equal(tokens, index):
            continue
        conjunction = next(i for i in range(index, len(tokens)) if tokens[i].upper == "AND")
        lowest = tokens[index + 1]
        yield _replace(lowest, lowest, str(int(lowest.text) - 1))
        last = tokens[_end_of_operand(tokens, conjunction + 1, "AND", "OR") - 1]
        yield (Edit(last.end, last.end, " + 1"),)


def _part(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Leave out a part of a condition."""
    tokens = function.tokens
    for index, token in enumerate(tokens):
        word = token.upper
        if word not in {"AND", "OR"} or _belongs_to_between(tokens, index):
            continue
        # OR ends the operands of AND, and not the other way round.
        others = {"AND", "OR"} if word == "AND" else {"OR"}
        start = _start_of_operand(tokens, index, _STARTS - {"AND", "OR"} | others)
        end = _end_of_operand(tokens, index + 1, *others)
        said = {token.upper for token in tokens[start:end]}
        # No test can make what an ASSERT rules out, and a text that is too long moves nothing.
        if said & {"OTHERS", "CHAR_LENGTH", "OCTET_LENGTH"}:
            continue
        is_first = (
            start == 0
            or tokens[start - 1].upper != word
            or tokens[start - 1].depth != (token.depth)
        )
        if is_first and not _is_said_twice(tokens, start, index):
            yield (Edit(tokens[start].start, tokens[index + 1].start, ""),)
        if not _is_said_twice(tokens, index + 1, end):
            yield _replace(token, tokens[end - 1], "")


def _belongs_to_between(tokens: Tokens, index: int) -> bool:
    for before in reversed(tokens[:index]):
        if before.depth < tokens[index].depth:
            return False
        if before.depth == tokens[index].depth:
            if before.upper == "BETWEEN":
                return True
            if before.upper in _STARTS:
                return False
    return False


def _is_said_twice(tokens: Tokens, start: int, end: int) -> bool:
    """Whether this part is `user_id = v_row.user_id`.

    Every lock and write names the user beside the id, so that user_id can become a distribution
    key; an id alone finds the same row. Where the caller says who he is, it is a check.
    """
    text = "".join(t.text for t in tokens[start:end])
    return re.fullmatch(r"(?:\w+\.)?user_id=(?!p_user_id)\w+\.user_id", text) is not None


def _sign(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Turn + into - and - into +, and drop the sign of a negative number."""
    for before, token in zip(function.tokens, function.tokens[1:], strict=False):
        if token.text not in {"+", "-"}:
            continue
        if before.upper in _NO_OPERAND:
            yield _replace(token, token, "")
        else:
            yield _replace(token, token, "+" if token.text == "-" else "-")


def _extreme(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Take the least for the greatest, and the greatest for the least."""
    swapped = {"LEAST": "greatest", "GREATEST": "least"}
    for token in function.tokens:
        if token.upper in swapped:
            yield _replace(token, token, swapped[token.upper])


def _order(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Turn an order around; without any, the rows might by chance come in the same one."""
    tokens = function.tokens
    for index, token in enumerate(tokens):
        if _words(tokens, index, 2) != "ORDER BY":
            continue
        edits = []
        first = index + 2
        while True:
            end = _end_of_operand(tokens, first)
            last = tokens[end - 1]
            if last.upper == "DESC":
                edits.append(Edit(tokens[end - 2].end, last.end, ""))
            else:
                edits.append(Edit(last.end, last.end, " DESC"))
            if end == len(tokens) or tokens[end].text != "," or tokens[end].depth != token.depth:
                break
            first = end + 1
        yield tuple(edits)


def _conflict(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Let an insertion that meets a row fail, or leave that row as it is."""
    tokens = function.tokens
    for index, token in enumerate(tokens):
        if _words(tokens, index, 2) != "ON CONFLICT":
            continue
        do = next(i for i in range(index, len(tokens)) if tokens[i].upper == "DO")
        if tokens[do + 1].upper == "NOTHING":
            yield _replace(token, tokens[do + 1], "")
            continue
        end = next(
            i
            for i in range(do, len(tokens))
            if tokens[i].depth < token.depth or tokens[i].upper in {";", "RETURNING"}
        )
        yield _replace(tokens[do + 1], tokens[end - 1], "NOTHING")


def _interval(function: Function) -> Iterator[tuple[Edit, ...]]:
    """Add no interval to a time."""
    tokens = function.tokens
    for index in range(len(tokens)):
        if _callee(tokens, index) == "credits._utc_add":
            opening = index + 3
            closing = _end_of_call(tokens, opening)
            comma = next(
                i
                for i in range(opening, closing)
                if tokens[i].text == "," and tokens[i].depth == tokens[opening].depth + 1
            )
            yield _replace(tokens[comma], tokens[closing - 1], ", '0'")


_OPERATORS: dict[str, Callable[[Function], Iterator[tuple[Edit, ...]]]] = {
    "unlock": _unlock,
    "wait": _wait,
    "skip": _skip,
    "never": _never,
    "compare": _compare,
    "bound": _bound,
    "part": _part,
    "sign": _sign,
    "extreme": _extreme,
    "order": _order,
    "conflict": _conflict,
    "interval": _interval,
}
OPERATORS = {name: (edits.__doc__ or "") for name, edits in _OPERATORS.items()} | {
    "unlocked-call": _unlocked_calls.__doc__ or ""
}


def noop(function: Function) -> str:
    """The function's file with nothing changed but a comment in its body."""
    return (
        parse(function.text).text[: function.end] + "-- unchanged\n" + function.text[function.end :]
    )
