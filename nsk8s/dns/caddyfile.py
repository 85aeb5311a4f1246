"""The form of a Corefile: server blocks of lines of words, with blocks of their own. Pure. Upstream: coredns/caddy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nsk8s.errors import Nsk8sError


class CorefileError(Nsk8sError):
    """The message begins with the file and the line, as CoreDNS' does."""


@dataclass
class Line:
    number: int
    words: list[str]
    body: list[Line] = field(default_factory=list)


def server_blocks(text: str, where: str) -> list[Line]:
    """Their keys are the words, their plugins the body. Raises CorefileError."""
    found: list[Line] = []
    open_: list[Line] = []
    for number, words in _lines(text):
        if words == ["}"]:
            if not open_:
                raise CorefileError(f"{where}:{number} - Error during parsing: Unexpected '}}'")
            open_.pop()
            continue
        opens = words[-1] == "{"
        line = Line(number, words[:-1] if opens else words)
        if not line.words or "{" in line.words or "}" in line.words:
            raise CorefileError(f"{where}:{number} - Error during parsing: '{{' ends a line, '}}' is one")
        (open_[-1].body if open_ else found).append(line)
        if not open_ and not opens:
            raise CorefileError(f"{where}:{number} - Error during parsing: '{{' is missing behind {' '.join(line.words)}")
        if opens:
            open_.append(line)
    if open_:
        raise CorefileError(f"{where}:{open_[-1].number} - Error during parsing: this block has no end")
    return found


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number, words) of what is neither empty nor a comment; quotes hold words together, `\\"` in them is a quote."""
    for number, raw in enumerate(text.splitlines(), 1):
        words: list[str] = []
        word, quoted, escaped, begun = "", False, False, False
        for char in raw:
            if quoted and char == "\\" and not escaped:
                escaped = True
                continue
            if escaped:
                word += char if char == '"' else "\\" + char
                escaped = False
            elif char == '"':
                quoted, begun = not quoted, True
            elif char == "#" and not quoted and not word:
                break
            elif char.isspace() and not quoted:
                words += [word] if word or begun else []
                word, begun = "", False
            else:
                word += char
        words += [word] if word or begun else []
        if words:
            yield number, words
