"""Restart back-off: 10 s doubling to 5 min, forgotten after 10 quiet minutes."""

from __future__ import annotations

from nsk8s.kubelet.backoff import Backoff, duration


def test_a_crashing_container_waits_longer_each_time():
    backoff, now, waits = Backoff(), 0.0, []
    for _ in range(8):
        waits.append(backoff.remaining("k", now, now))
        now += waits[-1]
        assert backoff.remaining("k", now - waits[-1], now) == 0
        backoff.next("k", now, now)
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


def test_a_long_quiet_run_starts_over():
    backoff = Backoff()
    backoff.next("k", 0, 0)
    backoff.next("k", 10, 10)
    assert backoff.delay("k") == 20
    assert backoff.remaining("k", 600, 601) == 19, "ended within ten minutes"
    assert backoff.remaining("k", 611, 611) == 0
    backoff.next("k", 611, 611)
    assert backoff.delay("k") == 10


def test_forget_takes_a_pods_keys():
    backoff = Backoff()
    backoff.next("u1/a/x", 0, 0)
    backoff.next("u2/a/x", 0, 0)
    backoff.forget("u1")
    assert (backoff.delay("u1/a/x"), backoff.delay("u2/a/x")) == (0, 10)


def test_durations_as_go_writes_them():
    assert [duration(s) for s in (10, 59, 60, 160, 300, 3661)] == ["10s", "59s", "1m0s", "2m40s", "5m0s", "1h1m1s"]
