"""One API call on its way through the server: who, what, on which kind, with which options. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from nsk8s.api.scheme import Kind
from nsk8s.apiserver.request import RequestInfo
from nsk8s.errors import BadRequest

FIELD_VALIDATION = ("Strict", "Warn", "Ignore")


@dataclass(frozen=True, slots=True)
class User:
    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: dict[str, list[str]] = field(default_factory=dict, compare=False)


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))
SYSTEM = User("system:apiserver", ("system:masters", "system:authenticated"))


@dataclass(slots=True)
class Call:
    """`warnings` become Warning headers of the answer."""

    user: User
    info: RequestInfo
    kind: Kind
    dry_run: bool = False
    field_manager: str = ""
    field_validation: str = "Warn"
    user_agent: str = ""
    warnings: list[str] = field(default_factory=list)
    applying: bool = False
    """A server-side apply, which keeps managedFields itself."""

    @property
    def manager(self) -> str:
        """Who is written down in managedFields: the one named, or the first word of the user agent."""
        return self.field_manager or self.user_agent.partition("/")[0] or "unknown"


def new_call(user: User, info: RequestInfo, kind: Kind, user_agent: str) -> Call:
    """The call with its write options read from the query. Raises BadRequest."""
    call = Call(user, info, kind, user_agent=user_agent)
    if info.method in ("POST", "PUT", "PATCH", "DELETE") and info.query:
        call.dry_run = parse_dry_run(list(info.query.get("dryRun", ())))
        call.field_manager = info.param("fieldManager")
        if len(call.field_manager) > 128:
            raise BadRequest("fieldManager: Too long: may not be more than 128 bytes")
        call.field_validation = info.param("fieldValidation") or "Warn"
        if call.field_validation not in FIELD_VALIDATION:
            raise BadRequest(
                f'fieldValidation: Unsupported value: "{call.field_validation}": supported values: "Ignore", "Strict", "Warn"'
            )
    return call


def parse_dry_run(values: list[str]) -> bool:
    if not values or values == [""]:
        return False
    if values != ["All"]:
        raise BadRequest(f'dryRun: Unsupported value: {values}: supported values: "All"')
    return True
