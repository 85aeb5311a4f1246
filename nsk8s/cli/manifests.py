"""Reading manifests: files, folders, standard input; YAML with several documents, JSON, Lists. Touches: files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from nsk8s.api.meta import Object
from nsk8s.errors import Nsk8sError

SUFFIXES = {".yaml", ".yml", ".json"}


def _sources(paths: tuple[str, ...], recursive: bool) -> Iterator[tuple[str, str]]:
    """(origin, text) of each file."""
    for name in paths:
        if name == "-":
            yield "standard input", sys.stdin.read()
            continue
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in (path.rglob("*") if recursive else path.iterdir()) if p.suffix in SUFFIXES)
            if not found:
                raise Nsk8sError(f"no manifests (*.yaml, *.yml, *.json) in {name}")
            for file in found:
                yield str(file), _read(file)
        else:
            yield name, _read(path)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise Nsk8sError(f"the path {str(path)!r} does not exist") from None
    except (OSError, UnicodeDecodeError) as e:
        raise Nsk8sError(f"cannot read {path}: {e}") from e


def read(paths: tuple[str, ...], recursive: bool = False) -> list[Object]:
    """Every object of the manifests, in order; a List's items one by one. Raises Nsk8sError naming the file."""
    out: list[Object] = []
    for origin, text in _sources(paths, recursive):
        try:
            documents: list[Any] = list(yaml.load_all(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))
        except yaml.YAMLError as e:
            raise Nsk8sError(f"{origin} is not YAML: {' '.join(str(e).split())}") from e
        for document in documents:
            if document is not None:
                out += _objects(origin, document)
    if not out:
        raise Nsk8sError("no objects passed to apply")
    return out


def _objects(origin: str, document: Any) -> list[Object]:
    if not isinstance(document, dict) or not document.get("kind") or not document.get("apiVersion"):
        raise Nsk8sError(f"{origin}: an object needs apiVersion and kind")
    if str(document["kind"]).endswith("List") and isinstance(document.get("items"), list):
        return [o for item in document["items"] for o in _objects(origin, item)]
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not (metadata.get("name") or metadata.get("generateName")):
        raise Nsk8sError(f"{origin}: {document['kind']} without metadata.name")
    return [document]
