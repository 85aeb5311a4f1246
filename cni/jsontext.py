"""json.loads and json.dumps without the json package: it imports re and enum, 5 ms of a plugin's start of 12. Pure.

The same C scanner and encoder do the work (`_json`), with the same results. Whatever is not plain sailing, an error above all,
is left to the package itself. Where there is no `_json`, or the package is loaded anyway, the package does everything.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_json: Any
try:
    import _json
except ImportError:
    _json = None


def _no_constant(name: str) -> object:
    raise ValueError(f"invalid value {name}")


class _Context:
    """What c_make_scanner reads of a JSONDecoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_no_constant)


def _unencodable(value: object) -> object:
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def loads(text: str) -> Any:
    """The value in `text`. Raises ValueError (NaN and Infinity, which are not JSON, included) or RecursionError."""
    if _json is not None and "json" not in sys.modules:
        stripped = text.strip(" \t\n\r")
        try:
            value, end = _json.make_scanner(_Context)(stripped, 0)
        except (StopIteration, SystemError):
            end = -1  # nothing that begins a value; or an error whose class (json.decoder's) the scanner looks for in vain
        if end == len(stripped):
            return value
    import json

    return json.loads(text, parse_constant=_no_constant)


def dumps(value: object, *, compact: bool = True) -> str:
    """`value` as JSON on one line; compact: without blanks after separators."""
    comma, colon = (",", ":") if compact else (", ", ": ")
    if _json is not None and "json" not in sys.modules and not isinstance(value, (str, int, float)):
        encode = _json.make_encoder(
            None, _unencodable, _json.encode_basestring_ascii, None, colon, comma, False, False, True
        )
        return "".join(encode(value, 0))
    import json

    return json.dumps(value, separators=(comma, colon))
