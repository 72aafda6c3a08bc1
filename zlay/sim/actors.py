"""Accounts and hosts of the simulated network: what is known of each, no behaviour. One thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zlay.sim.repo import Repo
    from zlay.sim.window import Window

__all__ = ["Account", "Host"]


class Account:
    """One account. `host` is where it lives; `known`: a relay that has read along holds its state."""

    __slots__ = ("busy", "did", "did_bytes", "handle", "host", "index", "key_number", "known", "repo", "status")

    def __init__(self, index: int, handle: str, host: Host, repo: Repo) -> None:
        self.index = index
        self.handle = handle
        self.host = host
        self.repo = repo
        self.did: str = repo.did
        self.did_bytes = self.did.encode()
        self.status: str | None = None  # None = active
        self.busy = False
        self.known = False
        self.key_number = 0

    @property
    def active(self) -> bool:
        """Whether the account may write."""
        return self.status is None


class Host:
    """One PDS: its accounts, numbering and window. `silent`: says nothing until a subscriber comes."""

    __slots__ = ("accounts", "epoch", "ghosts", "index", "name", "seq", "silent", "skew_us", "url", "window")

    def __init__(self, index: int, name: str, url: str, skew_us: int, window: Window) -> None:
        self.index = index
        self.name = name
        self.url = url
        self.skew_us = skew_us
        self.window = window
        self.accounts: list[Account] = []
        self.ghosts: list[Account] = []
        self.seq = 0
        self.epoch = 0
        self.silent = False
