"""How much each host may send and how many accounts it may have: tiers, rules that choose one, an operator's word.

A limit slows a host's reader down and drops nothing (E18). A host that has more accounts than it may is `throttled`
(E20) and read at a tenth of its pace: standing still it could never tell that accounts have gone. Pure; any thread.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase

from zlay.hosts.names import is_local_name, is_plain_address, split_port

__all__ = ["TIERS", "UNLIMITED", "Given", "Limits", "Tier", "TierRules", "limits_of"]

BYTES_PER_EVENT = 65536  # an event takes 5.5 kB in the mean, a commit's blocks at most 2 MB (B9)
OVER_SHARE = 10  # a host over its account limit is read at so small a part of its pace
MOST = 1 << 48  # of any limit


@dataclass(frozen=True, slots=True)
class Limits:
    """What a host may send; 0 = as much as it likes."""

    per_second: int = 0  # events
    per_hour: int = 0
    per_day: int = 0
    bytes_per_second: int = 0
    bytes_per_hour: int = 0
    bytes_per_day: int = 0

    def values(self) -> tuple[int, ...]:
        """In the order of zlay._fast.limits."""
        return (*self.events(), self.bytes_per_second, self.bytes_per_hour, self.bytes_per_day)

    def events(self) -> tuple[int, int, int]:
        """Per second, hour, day."""
        return self.per_second, self.per_hour, self.per_day


@dataclass(frozen=True, slots=True)
class Tier:
    """What hosts of one kind may. Each account allows more: one for a thousand accounts, one, ten events."""

    name: str
    events: tuple[int, int, int]  # per second, hour, day; 0 = no limit
    account_limit: int | None  # None = none
    grows: bool = False  # with the accounts there are, as far as they are allowed


UNLIMITED = Tier("unlimited", (0, 0, 0), None)
# E18. An independent PDS of today has fewer accounts than 10,000: the first line where an operator should look.
DEFAULT = Tier("default", (50, 2_500, 20_000), 10_000, grows=True)
TRUSTED = Tier("trusted", (5_000, 50_000_000, 500_000_000), 10_000_000)
TIERS = {tier.name: tier for tier in (DEFAULT, TRUSTED, UNLIMITED)}


@dataclass(frozen=True, slots=True)
class TierRules:
    """HOST_TIERS: (glob, tier) pairs, of which the first that fits a host's name counts."""

    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> TierRules:
        """Reads `glob:tier,...`. ValueError."""
        rules = []
        for piece in filter(None, (part.strip() for part in text.split(","))):
            glob, colon, tier = piece.rpartition(":")
            if not colon or not glob or " " in glob or tier not in TIERS:
                raise ValueError(f"GLOB:TIER, comma-separated, with a tier of {', '.join(TIERS)}")
            rules.append((glob.lower(), tier))
        return cls(tuple(rules))

    def tier_of(self, hostname: str) -> Tier:
        """The tier of a normalised name. A host of one's own machine, which only development has, is unlimited."""
        name, _ = split_port(hostname, no_tls=False)
        for glob, tier in self.rules:
            if fnmatchcase(name, glob) or fnmatchcase(hostname, glob):
                return TIERS[tier]
        return UNLIMITED if is_local_name(name) or is_plain_address(name) else DEFAULT


@dataclass(frozen=True, slots=True)
class Given:
    """What an operator has given one host instead of its tier's; None = nothing."""

    tier: str | None = None
    per_second: int | None = None
    per_hour: int | None = None
    per_day: int | None = None
    bytes_per_second: int | None = None
    bytes_per_hour: int | None = None
    bytes_per_day: int | None = None

    @classmethod
    def from_json(cls, text: str | None) -> Given:
        """What `to_json` made; None = nothing given. What a newer zlay may have added is left out."""
        known = {item.name for item in fields(cls)}
        said = {} if text is None else json.loads(text)
        return cls(**{name: value for name, value in said.items() if name in known})

    def to_json(self) -> str | None:
        """For the store; None where nothing is given."""
        said = {name: value for name, value in asdict(self).items() if value is not None}
        return json.dumps(said, sort_keys=True) if said else None

    def check(self) -> None:
        """ValueError where it cannot be meant."""
        for name, value in asdict(self).items():
            if name == "tier":
                if value is not None and not (isinstance(value, str) and value in TIERS):
                    raise ValueError(f"tier: one of {', '.join(TIERS)}, or null")
            elif value is not None and (type(value) is not int or not 0 <= value <= MOST):
                raise ValueError(f"{name}: a whole number, 0 = no limit, or null = by tier")


def limits_of(tier: Tier, given: Given, accounts: int, account_limit: int | None) -> Limits:
    """What a host of this tier with so many accounts may send. `account_limit` None = any number of accounts."""
    per_second, per_hour, per_day = tier.events
    if tier.grows:
        counted = accounts if account_limit is None else min(accounts, account_limit)
        per_second, per_hour, per_day = per_second + counted // 1000, per_hour + counted, per_day + 10 * counted
    said = {name: value for name, value in asdict(given).items() if name != "tier" and value is not None}
    values = {"per_second": per_second, "per_hour": per_hour, "per_day": per_day} | said
    for name in ("per_second", "per_hour", "per_day"):
        values.setdefault(f"bytes_{name}", values[name] * BYTES_PER_EVENT)
    if account_limit is not None and accounts > account_limit:
        values = {name: max(1, value // OVER_SHARE) if value else 0 for name, value in values.items()}
    return Limits(**values)
