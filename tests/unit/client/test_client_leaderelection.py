"""Who may take a lease, and what happens to the work when it is lost."""

from __future__ import annotations

import asyncio
import copy
import multiprocessing
from typing import Any

import pytest

from nsk8s.api.meta import Object
from nsk8s.client.leaderelection import Timing, is_dead, lead, may_take, own_identity
from nsk8s.errors import AlreadyExists, Conflict, Forbidden, NotFound

QUICK = Timing(lease_s=0.2, renew_s=0.1, retry_s=0.01)


class FakeApi:
    """The one Lease, with the API server's answers."""

    def __init__(self, holder: str = "", errors: list[Exception] | None = None) -> None:
        self.lease: Object | None = None
        self.errors = errors or []
        self.asked = 0
        self.signal_at = 0
        self.asked_enough = asyncio.Event()
        if holder:
            spec = {"holderIdentity": holder, "leaseDurationSeconds": 3600, "leaseTransitions": 4}
            self.lease = {"metadata": {"name": "x", "resourceVersion": "7"}, "spec": spec}

    async def wait_reachable(self) -> None:
        return

    async def get(self, resource: Any, name: str, namespace: str) -> Object:
        self.asked += 1
        if self.asked == self.signal_at:
            self.asked_enough.set()
        if self.errors:
            raise self.errors.pop(0)
        if self.lease is None:
            raise NotFound("no lease")
        return copy.deepcopy(self.lease)

    async def create(self, resource: Any, obj: Object) -> Object:
        if self.lease is not None:
            raise AlreadyExists("there")
        self.lease = {**obj, "metadata": {**obj["metadata"], "resourceVersion": "1"}}
        return self.lease

    async def update(self, resource: Any, obj: Object) -> Object:
        assert self.lease is not None
        if obj["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise Conflict("newer")
        revision = int(obj["metadata"]["resourceVersion"]) + 1
        self.lease = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(revision)}}
        return self.lease


async def started(api: FakeApi, identity: str) -> tuple[asyncio.Task[None], asyncio.Event]:
    working = asyncio.Event()

    async def work() -> None:
        working.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(lead(api, "x", identity, work, QUICK))  # type: ignore[arg-type]
    await asyncio.wait_for(working.wait(), 30)
    return task, working


def dead_identity() -> str:
    context = multiprocessing.get_context("fork")
    read, write = context.Pipe(duplex=False)
    child = context.Process(target=lambda: write.send(own_identity()))
    child.start()
    identity: str = read.recv()
    child.join()
    return identity


def test_a_living_process_and_strangers_are_not_dead() -> None:
    assert not is_dead(own_identity())
    assert not is_dead("")
    assert not is_dead("node1_0f0e3a34-0000-4000-8000-123456789abc")
    other_host = own_identity().replace("_", "-elsewhere_", 1).rsplit("-", 1)[0] + "-1"
    assert not is_dead(other_host)


def test_a_process_of_this_machine_that_ended_is_dead() -> None:
    assert is_dead(dead_identity())
    assert is_dead(own_identity() + "1"), "another start time: the pid was used again"


@pytest.mark.parametrize(
    ("holder", "age_s", "free"), [("", 0, True), ("me", 0, True), ("other", 14, False), ("other", 16, True)]
)
def test_a_lease_is_free_when_it_is_ours_released_or_old(holder: str, age_s: float, free: bool) -> None:
    lease = {"metadata": {}, "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}}
    assert may_take(lease, "me", age_s, Timing()) is free


async def test_a_lease_that_is_not_there_is_made_and_work_begins() -> None:
    api = FakeApi()
    task, _ = await started(api, "me")
    task.cancel()
    assert api.lease is not None
    assert api.lease["spec"]["holderIdentity"] == "me"


async def test_the_lease_of_a_dead_process_is_taken_at_once() -> None:
    api = FakeApi(holder=dead_identity())
    task, _ = await started(api, "me")
    task.cancel()
    assert api.asked <= 2
    assert api.lease is not None
    assert api.lease["spec"]["leaseTransitions"] == 5


async def test_errors_at_the_start_are_retried_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    real = asyncio.sleep

    async def sleep(delay: float) -> None:
        slept.append(delay)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    api = FakeApi(errors=[Forbidden("not yet"), Forbidden("not yet"), Forbidden("not yet")])
    working = asyncio.Event()

    async def work() -> None:
        working.set()

    await lead(api, "x", "me", work, Timing())  # type: ignore[arg-type]
    assert working.is_set()
    assert slept == [0.05, 0.1, 0.2]


async def test_work_ends_when_somebody_else_has_the_lease() -> None:
    api = FakeApi()
    task, _ = await started(api, "me")
    assert api.lease is not None
    api.lease = {"metadata": {"resourceVersion": "99"}, "spec": {**api.lease["spec"], "holderIdentity": "other"}}
    await asyncio.wait_for(task, 30)


async def test_work_goes_on_while_the_api_server_is_away() -> None:
    api = FakeApi()
    task, _ = await started(api, "me")
    api.errors = [Forbidden("restarting")] * 50
    api.signal_at = api.asked + 40
    await asyncio.wait_for(api.asked_enough.wait(), 30)
    assert not task.done()
    task.cancel()
