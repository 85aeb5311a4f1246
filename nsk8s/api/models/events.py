"""events.k8s.io/v1. Numbers as in upstream's generated.proto. Pure."""

from __future__ import annotations

from nsk8s.api.models.base import MicroTime, Model, Time, field, int32
from nsk8s.api.models.core import EventSource
from nsk8s.api.models.core_reference import ObjectReference
from nsk8s.api.models.meta import ObjectMeta


class Event(Model):
    """A report of something that happened to an object; kept for a while."""

    apiVersion: str = field(0)
    kind: str = field(0)
    metadata: ObjectMeta = field(1, "Standard object metadata.")
    eventTime: MicroTime = field(2, required=True)
    series: EventSeries = field(3)
    reportingController: str = field(4)
    reportingInstance: str = field(5)
    action: str = field(6)
    reason: str = field(7)
    regarding: ObjectReference = field(8)
    related: ObjectReference = field(9)
    note: str = field(10)
    type: str = field(11)
    deprecatedSource: EventSource = field(12)
    deprecatedFirstTimestamp: Time = field(13)
    deprecatedLastTimestamp: Time = field(14)
    deprecatedCount: int32 = field(15)


class EventSeries(Model):
    count: int32 = field(1, required=True)
    lastObservedTime: MicroTime = field(2, required=True)
