"""Building lists of causes, and the checks many kinds share. Pure. Upstream: apimachinery/pkg/util/validation/field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nsk8s.api import names, selectors
from nsk8s.api.meta import Object
from nsk8s.api.quantity import Quantity
from nsk8s.api.scheme import Cause, Kind
from nsk8s.errors import BadRequest, Invalid

NON_NEGATIVE = "must be greater than or equal to 0"
IMMUTABLE = "field is immutable"


def shown(value: Any) -> str:
    """A bad value as messages show it."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int | float):
        return str(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def shown_labels(labels: dict[str, str] | None) -> str:
    """A map of strings as Go writes it."""
    return "map[string]string{" + ", ".join(f"{shown(k)}:{shown(v)}" for k, v in sorted((labels or {}).items())) + "}"


class Causes(list[Cause]):
    """The failures found so far; every method adds one."""

    def _detailed(self, path: str, reason: str, text: str, detail: str) -> None:
        self.append(Cause(path, f"{text}: {detail}" if detail else text, reason))

    def required(self, path: str, detail: str = "") -> None:
        self._detailed(path, "FieldValueRequired", "Required value", detail)

    def invalid(self, path: str, value: Any, detail: str) -> None:
        self._detailed(path, "FieldValueInvalid", f"Invalid value: {shown(value)}", detail)

    def invalid_as(self, path: str, text: str, detail: str) -> None:
        """`text` is the value as it shall be shown."""
        self._detailed(path, "FieldValueInvalid", f"Invalid value: {text}", detail)

    def unsupported(self, path: str, value: Any, supported: Iterable[str]) -> None:
        known = ", ".join(f'"{s}"' for s in sorted(supported))
        self._detailed(path, "FieldValueNotSupported", f"Unsupported value: {shown(value)}", f"supported values: {known}")

    def forbidden(self, path: str, detail: str) -> None:
        self._detailed(path, "FieldValueForbidden", "Forbidden", detail)

    def duplicate(self, path: str, value: Any) -> None:
        self._detailed(path, "FieldValueDuplicate", f"Duplicate value: {shown(value)}", "")

    def not_found(self, path: str, value: Any) -> None:
        self._detailed(path, "FieldValueNotFound", f"Not found: {shown(value)}", "")

    def too_long(self, path: str, limit: int) -> None:
        self._detailed(path, "FieldValueTooLong", "Too long", f"may not be more than {limit} bytes")

    def too_many(self, path: str, count: int, limit: int) -> None:
        self._detailed(path, "FieldValueTooMany", f"Too many: {count}", f"must have at most {limit} items")

    def problems(self, path: str, value: Any, found: Iterable[str]) -> None:
        """One `Invalid value` for each problem (of nsk8s.api.names)."""
        for problem in found:
            self.invalid(path, value, problem)

    def choice(self, path: str, value: Any, supported: Sequence[str]) -> None:
        """Required if empty, unsupported unless it is one of those."""
        if not value:
            self.required(path)
        elif value not in supported:
            self.unsupported(path, value, supported)

    def non_negative(self, path: str, value: Any) -> None:
        if isinstance(value, int) and value < 0:
            self.invalid(path, value, NON_NEGATIVE)

    def port(self, path: str, value: int) -> None:
        self.problems(path, value, names.port_number_problems(value))

    def immutable(self, path: str, new: Any, old: Any) -> None:
        if new != old:
            self.invalid(path, new, IMMUTABLE)


def invalid(kind: Kind, name: str, causes: Sequence[Cause]) -> Invalid:
    """The 422 for these causes: `Deployment.apps "x" is invalid: spec.foo: …`, several as `[a, b]`."""
    texts = [f"{c.field}: {c.message}" for c in causes]
    text = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    qualified = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
    details: dict[str, Any] = {"name": name, "group": kind.group, "kind": kind.kind}
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return Invalid(
        f'{qualified} "{name}" is invalid: {text}', details={k: v for k, v in details.items() if v != ""}
    )


def named(obj: Object, check: Callable[[str], list[str]] = names.subdomain_problems) -> Causes:
    """A new list of causes, with those of metadata.name (which upstream checks as the prefix when it is generated)."""
    causes = Causes()
    name = str(obj["metadata"].get("name", ""))
    if name:
        causes.problems("metadata.name", name, check(name))
    prefix = str(obj["metadata"].get("generateName", ""))
    if prefix and not name:
        causes.problems("metadata.generateName", prefix, check(prefix.rstrip("-.") or prefix))
    return causes


def check_labels(causes: Causes, path: str, labels: dict[str, str] | None) -> None:
    for key, value in (labels or {}).items():
        causes.problems(path, key, names.qualified_name_problems(key))
        causes.problems(path, value, names.label_value_problems(value))


def check_annotations(causes: Causes, path: str, annotations: dict[str, str] | None) -> None:
    for key in annotations or {}:
        causes.problems(path, key, names.qualified_name_problems(key.lower()))


def check_selector(causes: Causes, path: str, selector: Object | None) -> None:
    """A LabelSelector. Upstream: metav1validation.ValidateLabelSelector."""
    if selector is None:
        return
    check_labels(causes, f"{path}.matchLabels", selector.get("matchLabels"))
    for i, term in enumerate(selector.get("matchExpressions") or []):
        check_expression(causes, f"{path}.matchExpressions[{i}]", term, ("In", "NotIn", "Exists", "DoesNotExist"))


def check_expression(causes: Causes, path: str, term: Object, operators: Sequence[str]) -> None:
    operator, values = term.get("operator", ""), term.get("values") or []
    if operator in ("In", "NotIn") and not values:
        causes.required(f"{path}.values", "must be specified when `operator` is 'In' or 'NotIn'")
    elif operator in ("Exists", "DoesNotExist") and values:
        causes.forbidden(f"{path}.values", "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
    elif operator in ("Gt", "Lt") and operator in operators:
        if len(values) != 1:
            causes.required(f"{path}.values", "must be specified single value when `operator` is 'Lt' or 'Gt'")
    elif operator not in operators:
        causes.invalid(f"{path}.operator", operator, "not a valid selector operator")
    causes.problems(f"{path}.key", term.get("key", ""), names.qualified_name_problems(term.get("key", "")))
    if operator in ("In", "NotIn"):
        for i, value in enumerate(values):
            causes.problems(f"{path}.values[{i}]", value, names.label_value_problems(str(value)))


def selector_matches(selector: Object | None, labels: dict[str, str] | None) -> bool:
    """Does the LabelSelector match? A broken one does not (its own causes say why)."""
    try:
        return selectors.from_label_selector(selector).matches(labels)
    except BadRequest:
        return False


def quantity(text: Any) -> Quantity:
    """A quantity that decoding has already accepted."""
    return Quantity.parse(text)


def check_int_or_percent(causes: Causes, path: str, value: Any) -> None:
    """A non-negative number or a percentage."""
    if isinstance(value, str):
        if not (value.endswith("%") and value[:-1].isascii() and value[:-1].isdigit()):
            causes.invalid(path, value, "a valid percent string must be a numeric string followed by an ending '%' "
                           "(e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')")  # fmt: skip
    else:
        causes.non_negative(path, value)
