"""Tiers, the rules that choose one, and what an operator gives a host instead."""

from __future__ import annotations

import pytest

from zlay.hosts.limits import DEFAULT, TIERS, TRUSTED, UNLIMITED, Given, TierRules, limits_of

NOTHING = Given()


@pytest.mark.parametrize(
    ("hostname", "tier"),
    [
        ("shiitake.us-east.host.bsky.network", "trusted"),
        ("host.bsky.network", "default"),
        ("bsky.network.example.com", "default"),
        ("slow.example.com", "default"),
        ("pds.example.org", "unlimited"),
        ("localhost:2583", "unlimited"),
        ("127.0.0.5:80", "unlimited"),
    ],
)
def test_first_rule_that_fits(hostname: str, tier: str) -> None:
    """The first glob that fits the whole name decides; else a host is of the default tier, a local one unlimited."""
    rules = TierRules.parse(" *.HOST.bsky.network:trusted, slow.*:default, *.org:unlimited,*.example.org:default,")
    assert rules.tier_of(hostname).name == tier


def test_local_hosts_can_be_limited() -> None:
    """A rule holds for hosts of one's own machine, too."""
    assert TierRules.parse("localhost:default").tier_of("localhost:2583") is DEFAULT


@pytest.mark.parametrize("text", ["x", "x:", ":default", "*.example.com:fast", "a:default b:default"])
def test_bad_rules(text: str) -> None:
    """What is no rule is refused."""
    with pytest.raises(ValueError, match="GLOB:TIER"):
        TierRules.parse(text)


def test_default_grows_with_accounts_allowed() -> None:
    """The default tier begins at 50, 2,500 and 20,000 events, and every account up to the limit allows more (E18)."""
    assert limits_of(DEFAULT, NOTHING, 0, 10_000).events() == (50, 2_500, 20_000)
    assert limits_of(DEFAULT, NOTHING, 3_000, 10_000).events() == (53, 5_500, 50_000)
    assert limits_of(TRUSTED, NOTHING, 3_000, None).events() == (5_000, 50_000_000, 500_000_000)
    assert limits_of(UNLIMITED, NOTHING, 3_000, None).values() == (0,) * 6


def test_bytes_follow_events() -> None:
    """Bytes are limited with the events, unless they are given."""
    limits = limits_of(DEFAULT, Given(per_second=10, bytes_per_day=7), 0, 10_000)
    assert limits.values() == (10, 2_500, 20_000, 10 * 65536, 2_500 * 65536, 7)


def test_too_many_accounts() -> None:
    """A host with more accounts than it may have is read at a tenth of what its allowed accounts give; no limit is
    no limit."""
    assert limits_of(DEFAULT, NOTHING, 10_001, 10_000).events() == (6, 1_250, 12_000)
    assert limits_of(UNLIMITED, Given(per_hour=5), 11, 10).events() == (0, 1, 0)


def test_given_is_kept_as_text() -> None:
    """What is given comes back from the store, and nothing given is nothing stored."""
    given = Given(tier="trusted", per_hour=0, bytes_per_second=5)
    assert Given.from_json(given.to_json()) == given
    assert NOTHING.to_json() is None
    assert Given.from_json(None) == NOTHING
    assert Given.from_json('{"per_day": 4, "of_the_future": 1}') == Given(per_day=4)


@pytest.mark.parametrize("given", [Given(tier="fast"), Given(per_hour=-1), Given(per_day=1 << 60)])
def test_bad_givens(given: Given) -> None:
    """What cannot be a limit is refused; every tier can be given."""
    with pytest.raises(ValueError, match=r"one of|whole number"):
        given.check()
    for tier in TIERS:
        Given(tier=tier).check()
