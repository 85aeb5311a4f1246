"""What a name, a label and an annotation may look like, in upstream's words. Pure.

Every function answers a list of problems, empty if the text is fine. Upstream: apimachinery/pkg/util/validation.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_DNS_LABEL = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS1123_LABEL = re.compile(_DNS_LABEL)
_DNS1123_SUBDOMAIN = re.compile(rf"{_DNS_LABEL}(\.{_DNS_LABEL})*")
_DNS1035_LABEL = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")
_WILDCARD_SUBDOMAIN = re.compile(rf"\*\.{_DNS_LABEL}(\.{_DNS_LABEL})*")
_QUALIFIED = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
_CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+")
_ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*")
_PORT_NAME = re.compile(r"[-a-z0-9]+")

DNS1123_SUBDOMAIN_MESSAGE = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
DNS1123_LABEL_MESSAGE = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with "
    "an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
    "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
DNS1035_LABEL_MESSAGE = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is "
    "'[a-z]([-a-z0-9]*[a-z0-9])?')"
)
QUALIFIED_NAME_MESSAGE = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    "(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
LABEL_VALUE_MESSAGE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
CONFIG_KEY_MESSAGE = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or "
    "'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
ENV_NAME_MESSAGE = (
    "a valid environment variable name must consist only of printable ASCII characters other than '='"
)
IP_MESSAGE = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"


def _too_long(limit: int) -> str:
    return f"must be no more than {limit} {'byte' if limit == 1 else 'bytes'}"


def _limited(text: str, limit: int, pattern: re.Pattern[str], message: str) -> list[str]:
    problems = [_too_long(limit)] if len(text) > limit else []
    if not pattern.fullmatch(text):
        problems.append(message)
    return problems


def subdomain_problems(text: str) -> list[str]:
    """A DNS-1123 subdomain (≤ 253): the name of most objects."""
    return _limited(text, 253, _DNS1123_SUBDOMAIN, DNS1123_SUBDOMAIN_MESSAGE)


def label_problems(text: str) -> list[str]:
    """A DNS-1123 label (≤ 63): Namespaces, containers, volumes."""
    return _limited(text, 63, _DNS1123_LABEL, DNS1123_LABEL_MESSAGE)


def dns1035_problems(text: str) -> list[str]:
    """A DNS-1035 label (≤ 63): Services."""
    return _limited(text, 63, _DNS1035_LABEL, DNS1035_LABEL_MESSAGE)


def wildcard_subdomain_problems(text: str) -> list[str]:
    """`*.` and a subdomain: a wildcard host of an Ingress."""
    return _limited(
        text, 253, _WILDCARD_SUBDOMAIN,
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of "
        "lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', "
        r"regex used for validation is '\*\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
    )  # fmt: skip


def path_segment_problems(text: str) -> list[str]:
    """A name that only has to survive in a URL path: RBAC kinds."""
    if text in (".", ".."):
        return [f"may not be '{text}'"]
    return [f"may not contain '{c}'" for c in "/%" if c in text]


def qualified_name_problems(text: str) -> list[str]:
    """`name` or `prefix/name`: keys of labels, annotations, taints, extended resources."""
    prefix, slash, name = text.rpartition("/")
    problems = []
    if slash:
        if "/" in prefix:
            return [f"a qualified name {QUALIFIED_NAME_MESSAGE} with an optional DNS subdomain prefix and '/' "
                    "(e.g. 'example.com/MyName')"]  # fmt: skip
        if not prefix:
            problems.append("prefix part must be non-empty")
        else:
            problems += [f"prefix part {p}" for p in subdomain_problems(prefix)]
    if not name:
        problems.append("name part must be non-empty")
    elif len(name) > 63:
        problems.append(f"name part {_too_long(63)}")
    if not _QUALIFIED.fullmatch(name):
        problems.append(f"name part {QUALIFIED_NAME_MESSAGE}")
    return problems


def label_value_problems(text: str) -> list[str]:
    return _limited(text, 63, _LABEL_VALUE, LABEL_VALUE_MESSAGE)


def config_key_problems(text: str) -> list[str]:
    """A key of a ConfigMap or Secret."""
    problems = _limited(text, 253, _CONFIG_KEY, CONFIG_KEY_MESSAGE)
    if text in (".", ".."):
        problems.append(f"must not be '{text}'")
    elif text.startswith(".."):
        problems.append("must not start with '..'")
    return problems


def env_name_problems(text: str) -> list[str]:
    if not text or any(not 32 <= ord(c) < 127 or c == "=" for c in text):
        return [ENV_NAME_MESSAGE]
    return []


def port_name_problems(text: str) -> list[str]:
    """An IANA service name, as container ports have it (≤ 15)."""
    problems = []
    if len(text) > 15:
        problems.append("must be no more than 15 characters")
    if not _PORT_NAME.fullmatch(text):
        problems.append("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)")
    if not re.search("[a-z]", text):
        problems.append("must contain at least one letter (a-z)")
    if "--" in text:
        problems.append("must not contain consecutive hyphens")
    if text[:1] == "-" or text[-1:] == "-":
        problems.append("must not begin or end with a hyphen")
    return problems


def port_number_problems(port: int) -> list[str]:
    return [] if 1 <= port <= 65535 else ["must be between 1 and 65535, inclusive"]


@lru_cache(maxsize=4096)
def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text is; None if it is none. The same few hundred are asked for with every endpoint's change."""
    try:
        return None if "%" in text else ipaddress.ip_address(text)
    except ValueError:
        return None


def ip_problems(text: str) -> list[str]:
    return [] if address(text) is not None else [IP_MESSAGE]


def cidr_problems(text: str) -> list[str]:
    message = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    if "/" not in text or not text.rpartition("/")[2].isdigit():
        return [message]
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return [message]
    return []


def canonical_ip_problems(text: str) -> list[str]:
    """An IP address that is the name of an object: in its one spelling."""
    found = address(text)
    if found is None:
        return [IP_MESSAGE]
    return [] if str(found) == text else [f'must be in canonical form ("{found}")']


def canonical_cidr_problems(text: str) -> list[str]:
    """A range in its one spelling: no bits behind its length."""
    problems = cidr_problems(text)
    if problems:
        return problems
    right = str(ipaddress.ip_network(text, strict=False))
    return [] if right == text else [f'must be in canonical form ("{right}")']


def absolute_path_problems(text: str) -> list[str]:
    return [] if text.startswith("/") else ["must be an absolute path"]
