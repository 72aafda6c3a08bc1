"""A host that is over its limits, seen from outside: held back, told, and nothing of it lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.verdicts.stage import Stage

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_throttled_host_waits_and_loses_nothing(stage: Stage) -> None:
    """A host over its limit is read no more, is shown as throttled, and goes on where it was; others do not notice."""
    relay, name = stage.relay, stage.main.name

    def host() -> Any:
        return relay.admin("GET", f"/admin/hosts?hostname={name}")

    before = stage.counts()
    relay.admin("POST", "/admin/hosts/changeLimits", {"hostname": name, "per_hour": 1})
    stage.pass_on(stage.alice, stage.main)
    stage.pass_on(stage.alice, stage.main)  # one more is read: a limit is not known to be passed before
    relay.wait_for(lambda: host()["waits_for"] == "limit", "the host to be throttled", 30)
    for _ in range(3):
        stage.main.publish(stage.alice.commit(stage.main.next_seq()))
    stage.pass_on(stage.bob, stage.other)
    assert not stage.has_seen(stage.alice, list(stage.consumer.frames))
    for told, by in (  # the reader looks at its limit every second: for a moment it waits for nothing
        (lambda: relay.xrpc("getHostStatus", f"hostname={name}")["status"] == "throttled", "getHostStatus"),
        (lambda: relay.metrics()["relay_hosts_throttled"] == 1, "metrics"),
        (lambda: [one["hostname"] for one in relay.admin("GET", "/admin/hosts")["most_throttled"]] == [name], "admin"),
    ):
        relay.wait_for(told, f"{by} to say so", 30)
    relay.admin("POST", "/admin/hosts/changeLimits", {"hostname": name, "per_hour": None})
    stage.wait_seen(stage.alice)
    stage.wait_settled(before, 6)
    assert stage.since(before, "drop") == {}
    assert host()["throttled_s"] > 0
    assert relay.metrics()["relay_host_throttled_seconds_total"] > 0
