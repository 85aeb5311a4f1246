"""The JSON schema of a cluster.yaml, with what config.py says about each setting. Touches: config.py's source."""

from __future__ import annotations

import ast
import inspect
from typing import Any

from pydantic.alias_generators import to_camel

from nsk8s import config


def schema() -> dict[str, Any]:
    """pydantic's schema, the attributes' docstrings as descriptions. (pydantic can do so itself, but at every import.)"""
    document = config.ClusterConfig.model_json_schema(by_alias=True)
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    documented = descriptions(inspect.getsource(config))
    for name, model in {"ClusterConfig": document, **document["$defs"]}.items():
        for key, text in documented.get(name, {}).items():
            model["properties"][key]["description"] = text
    return document


def descriptions(source: str) -> dict[str, dict[str, str]]:
    """Class → setting (as the file has it) → the docstring below it. Pure."""
    found: dict[str, dict[str, str]] = {}
    for c in ast.parse(source).body:
        if not isinstance(c, ast.ClassDef):
            continue
        for statement, after in zip(c.body, c.body[1:], strict=False):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and isinstance(after, ast.Expr):
                text = ast.literal_eval(after.value)
                found.setdefault(c.name, {})[to_camel(statement.target.id)] = " ".join(str(text).split())
    return found
