"""What the documents name is there: files, headings, scripts, commands, flags, settings."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import fields
from functools import cache
from typing import TYPE_CHECKING

import pytest

import zlay
from tests.docs.tables import DOCUMENTS, ROOT
from zlay.config import FOREIGN_NAMES, Config

if TYPE_CHECKING:
    from pathlib import Path

UNIT = ROOT / "deploy" / "zlay.service"
TEXTS = [*DOCUMENTS, UNIT]
COMMANDS = ("run", "admin", "hosts", "memory", "log", "consume", "backup", "restore", "sim", "demo")
NESTED = {"log": ("ls", "verify", "cat", "stats"), "admin": ("limits",)}  # commands of a command, with flags

# Settings of the plan that the design page says are not there.
MISSING = {"ZLAY_DISABLE", "LEAK_SAMPLE"}
SETTING = re.compile(
    r"\b(?:RELAY|FRAME|RESOLVER|HOST|HOLD|FANOUT|LEAK|VALIDATOR|DID|ZLAY|LOG|MALLOC|DATABASE|MAX_REPLAY)_[A-Z_]*[A-Z]\b"
)
NAMED_PATH = re.compile(r"(?<![\w./-])(?:zlay|tests|scripts|docs|deploy|\.ci)/[\w./*-]*\w[/*]?")

documents = pytest.mark.parametrize("document", TEXTS, ids=lambda path: path.name)


def headings(path: Path) -> set[str]:
    """The anchors of a document's headings."""
    found = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@documents
def test_links(document: Path) -> None:
    """Every link leads to a file of the project and, if it names one, to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (document.parent / name).resolve() if name else document
        assert path.exists(), target
        assert not anchor or anchor in headings(path), target


@documents
def test_paths(document: Path) -> None:
    """Every path of the project that is named is there; what is called as a script can be run."""
    for path in NAMED_PATH.findall(re.sub(r"https?://\S+|file://\S+", "", document.read_text())):
        assert list(ROOT.glob(path.rstrip("/"))), path
        if path.startswith("scripts/"):
            assert os.access(ROOT / path, os.X_OK), path


@documents
def test_settings(document: Path) -> None:
    """Every setting that is named exists, but for those that are said to be missing, and these are."""
    known = {item.name.upper() for item in fields(Config)}
    assert not known & MISSING
    constants = set(re.findall(r"\b([A-Z][A-Z_]+) = ", document.read_text()))
    named = set(SETTING.findall(document.read_text()))
    assert named <= known | FOREIGN_NAMES | MISSING | constants, named - known - FOREIGN_NAMES


@cache
def help_of(command: str) -> str:
    """What `zlay COMMAND --help` says, and the help of what it has of commands."""
    told = [
        subprocess.run(
            [sys.executable, "-m", "zlay", command, *below, "--help"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for below in ([], *([name] for name in NESTED.get(command, ())))
    ]
    return "\n".join(told)


@documents
def test_commands(document: Path) -> None:
    """Every command line shown names a command of zlay and flags that it takes."""
    for line in document.read_text().replace("\\\n", " ").splitlines():
        for command, rest in re.findall(r"(?:scripts/|bin/|`)zlay (\w+)([^`|]*)", line):
            assert command in COMMANDS, f"zlay {command}"
            for flag in re.findall(r"--[a-z][a-z-]*", rest):
                assert flag in help_of(command), f"zlay {command} {flag}"


def test_admin_commands() -> None:
    """The operations page lists the commands of `zlay admin`, all of them and no others, and the flags of limits."""
    text = (ROOT / "docs" / "operations.md").read_text().partition("### From a shell")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`zlay admin .*?) \|", text, re.MULTILINE)
    listed = {name for cell in cells for name in re.findall(r"`(?:zlay admin )?([a-z-]+)(?: [A-Z]+| \[NAME\])?`", cell)}
    assert listed == set(re.findall(r"^    ([a-z-]+)  ", help_of("admin"), re.MULTILINE))
    assert set(re.findall(r"--(?:[a-z]+-)*[a-z]+", text)) >= set(re.findall(r"--(?:bytes-)?per-\w+", help_of("admin")))


def test_version() -> None:
    """The version of the package is the one that README and changelog speak of."""
    for name in ("README.md", "CHANGELOG.md"):
        assert zlay.__version__ in (ROOT / name).read_text(), name
