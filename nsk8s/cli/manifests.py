"""Reading manifests: files, folders, standard input; YAML with several documents, JSON, Lists. Touches: files."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import yaml

from nsk8s.api.meta import Object
from nsk8s.errors import Nsk8sError

SUFFIXES = {".yaml", ".yml", ".json"}
MAX_BYTES = 16 * 2**20
"""A manifest beyond this is a mistake: the API server takes 3 MiB an object."""
MAX_VALUES = 2_000_000
"""Values in one file after its aliases are filled in: more is a bomb."""


class Manifest(NamedTuple):
    """An object and where it comes from."""

    origin: str
    object: Object


def read(paths: tuple[str, ...], recursive: bool = False) -> list[Manifest]:
    """Every object of the manifests, in order; a List's items one by one. Raises Nsk8sError naming file and line.

    Nothing is returned unless everything could be read: a typing error in the last file leaves the cluster as it was.
    """
    out: list[Manifest] = []
    for origin, raw, in_folder in _sources(paths, recursive):
        documents = parse(origin, raw)
        if in_folder and len(documents) == 1 and _is_cluster_file(documents[0]):
            print(f"{origin}: a cluster file (for `nsk8s up -f`), skipped", file=sys.stderr)
            continue
        for document in documents:
            out += (Manifest(origin, o) for o in objects(origin, document))
    if not out:
        raise Nsk8sError(f"no objects in {', '.join(paths)}", "a manifest has apiVersion, kind and metadata.name")
    return out


def _sources(paths: tuple[str, ...], recursive: bool) -> Iterator[tuple[str, bytes, bool]]:
    """(origin, bytes, found in a folder) of each file."""
    for name in paths:
        if name == "-":
            yield "standard input", _limited("standard input", sys.stdin.buffer.read(MAX_BYTES + 1)), False
            continue
        if re.match(r"https?://", name):
            raise Nsk8sError(f"{name} is not fetched: nsk8s reads files only", "download it, look at it, apply the file")
        path = Path(name)
        if path.is_dir():
            found = sorted(p for p in (path.rglob("*") if recursive else path.iterdir()) if p.suffix in SUFFIXES and p.is_file())
            if not found:
                more = "" if recursive else "-R looks into the folders below as well"
                raise Nsk8sError(f"no manifests (*.yaml, *.yml, *.json) in {name}", more)
            for file in found:
                yield str(file), _read(file), True
        else:
            yield name, _read(path), False


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as f:
            return _limited(str(path), f.read(MAX_BYTES + 1))
    except FileNotFoundError:
        raise Nsk8sError(f"the path {str(path)!r} does not exist") from None
    except OSError as e:
        raise Nsk8sError(f"cannot read {path}: {e.strerror}") from e


def _limited(origin: str, raw: bytes) -> bytes:
    if len(raw) > MAX_BYTES:
        raise Nsk8sError(f"{origin} is larger than {MAX_BYTES // 2**20} MiB", "split it")
    return raw


def parse(origin: str, raw: bytes) -> list[Any]:
    """The documents in a file, as JSON has them (text keys, no dates); empty ones are left out. Raises Nsk8sError."""
    from nsk8s.apiserver.yamlloader import Loader

    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise Nsk8sError(f"{origin} is not text (byte {e.start} is no UTF-8)", "give a YAML or JSON file") from None
    if "\0" in text:
        raise Nsk8sError(f"{origin} is not text (it holds a null byte)", "give a YAML or JSON file")
    try:
        documents = [d for d in yaml.load_all(text, Loader=Loader) if d is not None]
        if "&" in text and "*" in text and sum(map(_values, documents)) > MAX_VALUES:
            raise Nsk8sError(f"{origin}: its aliases make more than {MAX_VALUES:,} values", "write them out")
        plain: list[Any] = orjson.loads(orjson.dumps(documents, option=orjson.OPT_NON_STR_KEYS))
    except yaml.YAMLError as e:
        raise Nsk8sError(syntax_error(origin, e), "mend it there; blanks, not tabs, indent YAML") from e
    except (TypeError, ValueError, RecursionError) as e:
        raise Nsk8sError(f"{origin} cannot be read as JSON or YAML: {e}") from e
    return plain


def syntax_error(origin: str, error: yaml.YAMLError) -> str:
    """`file:line:column: what is wrong`, on one line. Pure."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    where = f"{origin}:{mark.line + 1}:{mark.column + 1}" if mark is not None else origin
    return f"{where}: not valid YAML: {' '.join(str(problem).split())}"


def _values(document: Any) -> int:
    """How many values a document has once every alias is filled in; each shared part is counted once and multiplied."""
    known: dict[int, int] = {}

    def count(value: Any) -> int:
        if not isinstance(value, dict | list):
            return 1
        if id(value) not in known:
            known[id(value)] = MAX_VALUES + 1  # a part that holds itself
            known[id(value)] = 1 + sum(map(count, value.values() if isinstance(value, dict) else value))
        return known[id(value)]

    return count(document)


def _is_cluster_file(document: Any) -> bool:
    from nsk8s.config import ClusterConfig

    keys = {f.alias or n for n, f in ClusterConfig.model_fields.items()}
    return isinstance(document, dict) and bool(document) and set(document) <= keys


def objects(origin: str, document: Any) -> list[Object]:
    """The objects of one document. Pure. Raises Nsk8sError that says what it lacks."""
    if not isinstance(document, dict):
        what = "a list" if isinstance(document, list) else "a text" if isinstance(document, str) else "a value"
        raise Nsk8sError(f"{origin}: {what} is not an object", "an object is a mapping with apiVersion, kind and metadata.name")
    for key in ("apiVersion", "kind"):
        value = document.get(key)
        if not isinstance(value, str) or not value:
            other = "kind" if key == "apiVersion" else "apiVersion"
            hint = f"{other} is {document[other]}" if document.get(other) else f"its keys are {', '.join(list(document)[:5])}"
            raise Nsk8sError(f"{origin}: an object without {key} ({hint})", "an object has apiVersion, kind and metadata.name")
    kind = document["kind"]
    if kind.endswith("List") and isinstance(document.get("items"), list):
        return [o for item in document["items"] for o in objects(origin, item)]
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not any(isinstance(metadata.get(k), str) for k in ("name", "generateName")):
        raise Nsk8sError(f"{origin}: {kind} without metadata.name", "give it one")
    return [document]
