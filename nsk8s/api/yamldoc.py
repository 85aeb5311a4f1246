"""YAML to JSON values, by libyaml where PyYAML was built with it: ten times as fast. Every component reads two files. Pure."""

from __future__ import annotations

from typing import Any

import yaml

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load(text: str) -> Any:
    """The one document in `text`. Raises yaml.YAMLError."""
    return yaml.load(text, Loader=_Loader)


def load_all(text: str) -> list[Any]:
    """Every document in `text`. Raises yaml.YAMLError."""
    return list(yaml.load_all(text, Loader=_Loader))
