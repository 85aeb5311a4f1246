"""Label and field selectors: text or LabelSelector → an immutable value that matches objects. Pure.

Upstream: apimachinery/pkg/labels, apimachinery/pkg/fields, metav1.LabelSelectorAsSelector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from nsk8s.api.meta import Object
from nsk8s.api.names import label_value_problems, qualified_name_problems
from nsk8s.errors import BadRequest

if TYPE_CHECKING:
    from nsk8s.api.scheme import Kind


@dataclass(frozen=True)
class Requirement:
    """One term: key, operator (in, notin, exists, !, gt, lt) and the values it compares with."""

    key: str
    op: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.op:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        try:
            (bound,) = self.values
            have = int(value) if value is not None else None
        except ValueError:
            return False
        if have is None:
            return False
        return have > int(bound) if self.op == "gt" else have < int(bound)

    def __str__(self) -> str:
        values = ",".join(sorted(self.values))
        match self.op:
            case "exists":
                return self.key
            case "!":
                return f"!{self.key}"
            case "gt":
                return f"{self.key}>{values}"
            case "lt":
                return f"{self.key}<{values}"
            case "in" if len(self.values) == 1:
                return f"{self.key}={values}"
            case "notin" if len(self.values) == 1:
                return f"{self.key}!={values}"
        return f"{self.key} {self.op} ({values})"


@dataclass(frozen=True)
class LabelSelector:
    """All requirements must hold; `nothing` is the selector of an absent LabelSelector and matches no object."""

    requirements: tuple[Requirement, ...] = ()
    nothing: bool = False

    @property
    def empty(self) -> bool:
        """True if every object matches."""
        return not self.requirements and not self.nothing

    def matches(self, labels: Mapping[str, str] | None) -> bool:
        if self.nothing:
            return False
        have = labels or {}
        return all(r.matches(have) for r in self.requirements)

    def __str__(self) -> str:
        """The text form, as status.selector of a Scale and `kubectl get -o wide` show it."""
        return ",".join(str(r) for r in sorted(self.requirements, key=lambda r: r.key))


EVERYTHING = LabelSelector()
NOTHING = LabelSelector(nothing=True)

_TOKEN = re.compile(r"\s*(==|!=|[=!<>(),]|[^\s=!<>(),]+)")
_PUNCTUATION = frozenset(("==", "!=", "=", "!", "<", ">", "(", ")", ","))


@lru_cache(maxsize=512)
def parse_labels(text: str) -> LabelSelector:
    """The selector that `?labelSelector=` text stands for; raises BadRequest."""
    tokens = _tokens(text)
    requirements: list[Requirement] = []
    at = 0
    while at < len(tokens):
        requirement, at = _requirement(tokens, at)
        requirements.append(requirement)
        if at < len(tokens):
            if tokens[at] != ",":
                raise _unparsable(tokens[at], "',' or 'end of string'")
            at += 1
            if at == len(tokens):
                raise _unparsable("", "identifier after ','")
    return LabelSelector(tuple(requirements))


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while found := _TOKEN.match(text, at):
        tokens.append(found.group(1))
        at = found.end()
    return tokens


def _unparsable(found: str, expected: str) -> BadRequest:
    return BadRequest(f"unable to parse requirement: found '{found}', expected: {expected}")


def _requirement(tokens: list[str], at: int) -> tuple[Requirement, int]:
    def peek(i: int) -> str:
        return tokens[i] if i < len(tokens) else ""

    negated = peek(at) == "!"
    at += negated
    key = peek(at)
    if not key or key in _PUNCTUATION:
        raise _unparsable(key, "identifier")
    _check_key(key)
    at += 1
    op = peek(at)
    if negated:
        return Requirement(key, "!"), at
    if op in ("", ","):
        return Requirement(key, "exists"), at
    if op in ("=", "==", "!="):
        following = peek(at + 1)
        value, at = ("", at + 1) if not following or following in _PUNCTUATION else (following, at + 2)
        _check_value(key, value)
        return Requirement(key, "notin" if op == "!=" else "in", frozenset((value,))), at
    if op in ("<", ">"):
        value = peek(at + 1)
        if not re.fullmatch(r"[+-]?[0-9]+", value):
            raise BadRequest(
                f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": '
                "for 'Gt', 'Lt' operators, the value must be an integer"
            )
        return Requirement(key, "gt" if op == ">" else "lt", frozenset((value,))), at + 2
    if op in ("in", "notin"):
        values, at = _value_set(tokens, at + 1)
        for value in values:
            _check_value(key, value)
        return Requirement(key, op, values), at
    raise _unparsable(op, "in, notin, =, ==, !=, gt, lt")


def _value_set(tokens: list[str], at: int) -> tuple[frozenset[str], int]:
    if at >= len(tokens) or tokens[at] != "(":
        raise _unparsable(tokens[at] if at < len(tokens) else "", "'('")
    values: set[str] = set()
    value = ""
    for i in range(at + 1, len(tokens)):
        token = tokens[i]
        if token in (",", ")"):
            values.add(value)
            value = ""
            if token == ")":
                return frozenset(values), i + 1
        elif token in _PUNCTUATION or value:
            raise _unparsable(token, "',', or ')'")
        else:
            value = token
    raise _unparsable("", "',' or ')'")


def _check_key(key: str) -> None:
    if problems := qualified_name_problems(key):
        raise BadRequest(f'unable to parse requirement: <nil>: Invalid value: "{key}": {"; ".join(problems)}')


def _check_value(key: str, value: str) -> None:
    if problems := label_value_problems(value):
        raise BadRequest(
            f'unable to parse requirement: values[0][{key}]: Invalid value: "{value}": {"; ".join(problems)}'
        )


_EXPRESSION_OPS = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "!", "Gt": "gt", "Lt": "lt"}


def from_label_selector(selector: Mapping[str, Any] | None) -> LabelSelector:
    """The selector of a metav1.LabelSelector (also of a NodeSelectorTerm's matchExpressions): None matches nothing,
    {} everything. Raises BadRequest for an operator that does not exist or values that do not fit it."""
    if selector is None:
        return NOTHING
    requirements = [Requirement(k, "in", frozenset((v,))) for k, v in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or []:
        requirements.append(_expression(expression))
    return LabelSelector(tuple(requirements))


def _expression(expression: Mapping[str, Any]) -> Requirement:
    operator = str(expression.get("operator", ""))
    op = _EXPRESSION_OPS.get(operator)
    values = expression.get("values") or []
    if op is None:
        raise BadRequest(f'"{operator}" is not a valid label selector operator')
    if op in ("in", "notin") and not values:
        raise BadRequest("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty")
    if op in ("exists", "!") and values:
        raise BadRequest("values: Invalid value: values set must be empty for exists and does not exist")
    if op in ("gt", "lt") and (len(values) != 1 or not re.fullmatch(r"[+-]?[0-9]+", str(values[0]))):
        raise BadRequest("values: Invalid value: for 'Gt', 'Lt' operators, exactly one integer value is required")
    return Requirement(str(expression.get("key", "")), op, frozenset(map(str, values)))


def from_set(labels: Mapping[str, str] | None) -> LabelSelector:
    """The selector of a plain label map (Service and ReplicationController spec.selector): empty matches everything."""
    return LabelSelector(tuple(Requirement(k, "in", frozenset((v,))) for k, v in (labels or {}).items()))


@dataclass(frozen=True)
class FieldRequirement:
    path: str
    value: str
    negated: bool = False


@dataclass(frozen=True)
class FieldSelector:
    """`path=value` and `path!=value` terms, all of which must hold."""

    requirements: tuple[FieldRequirement, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.requirements

    def matches(self, fields: Mapping[str, str]) -> bool:
        """True if the given path → text map fits; a path that is missing counts as empty."""
        return all((fields.get(r.path, "") == r.value) is not r.negated for r in self.requirements)

    def exact(self, path: str) -> str | None:
        """The one value that `path` must have, if the selector says so."""
        return next((r.value for r in self.requirements if r.path == path and not r.negated), None)

    def check(self, kind: Kind) -> None:
        """Raise BadRequest if a term names a field that `kind` cannot be selected by."""
        for requirement in self.requirements:
            if requirement.path in ("metadata.name", "metadata.namespace") or requirement.path in kind.fields:
                continue
            if kind.fields:
                raise BadRequest(f"field label not supported: {requirement.path}")
            raise BadRequest(
                f'"{requirement.path}" is not a known field selector: only "metadata.name", "metadata.namespace"'
            )

    def matches_object(self, kind: Kind, obj: Object) -> bool:
        """True if `obj` of `kind` fits; only the fields that are asked for are computed."""
        return all((_field(kind, obj, r.path) == r.value) is not r.negated for r in self.requirements)


def _field(kind: Kind, obj: Object, path: str) -> str:
    if path in ("metadata.name", "metadata.namespace"):
        return str(obj["metadata"].get(path[9:], ""))
    getter: Callable[[Object], str] | None = kind.fields.get(path)
    return getter(obj) if getter else ""


ALL_FIELDS = FieldSelector()


@lru_cache(maxsize=512)
def parse_fields(text: str) -> FieldSelector:
    """The selector that `?fieldSelector=` text stands for (`=`, `==`, `!=`; backslash escapes); raises BadRequest."""
    requirements = []
    for term in _split_terms(text):
        if not term:
            continue
        found = re.match(r"((?:\\.|[^\\=!])*)(!=|==|=)(.*)", term, re.DOTALL)
        if not found:
            raise BadRequest(f"invalid selector: '{text}'; can't understand '{term}'")
        path, op, value = found.groups()
        requirements.append(FieldRequirement(path, _unescape(value), op == "!="))
    return FieldSelector(tuple(requirements))


def _split_terms(text: str) -> list[str]:
    """Split at commas that no backslash precedes."""
    return re.findall(r"(?:\\.|[^\\,])+|\\$", text, re.DOTALL)


def _unescape(value: str) -> str:
    out, at = [], 0
    while at < len(value):
        char = value[at]
        if char == "\\":
            following = value[at + 1 : at + 2]
            if following not in ("\\", ",", "="):
                raise BadRequest(f'invalid field selector: invalid escape sequence in value: "{value}"')
            out.append(following)
            at += 2
            continue
        if char in (",", "="):
            raise BadRequest(f'invalid field selector: unescaped character in value: "{value}": \'{char}\'')
        out.append(char)
        at += 1
    return "".join(out)
