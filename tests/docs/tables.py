"""The tables of README.md and docs/ that are made from code, and how they are put into their places.

    .venv/bin/python -m tests.docs.tables     writes them anew; run it after a change of settings, reasons or metrics

A table stands between two comments, `<!-- table: NAME -->` and `<!-- end -->`. One thread.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import fields
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.relay import RelayProcess, request
from zlay._fast import verdicts
from zlay.api.tally import REASONS
from zlay.config import Config

__all__ = ["DOCUMENTS", "ROOT", "exported", "metrics", "put", "reasons", "settings", "table_in"]

ROOT = Path(__file__).resolve().parent.parent.parent
DOCUMENTS = tuple(
    sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")], key=lambda path: path.name)
)
NO_PLC = "http://127.0.0.1:9"  # the discard port: nobody is asked


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def settings() -> str:
    """Every setting of `zlay run`: name, default, meaning."""
    rows = []
    for item in fields(Config):
        shown = item.metadata["shown"] or ""
        rows.append((f"`{item.name.upper()}`", f"`{shown}`" if shown else "", item.metadata["meaning"]))
    return _table(("name", "default", "meaning"), rows)


def reasons(verdict: str) -> str:
    """Every reason of one verdict: label, what it means, the clause."""
    rows = [(f"`{one.label}`", one.text, one.clause) for one in verdicts.REASONS if one.verdict == verdict]
    return _table(("reason", "meaning", "clause"), rows)


def exported(exposition: str) -> dict[str, tuple[str, str, tuple[str, ...]]]:
    """What a relay's /metrics offers: name -> (type, help, label names)."""
    found: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for family in text_string_to_metric_families(exposition):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = sorted({label for sample in family.samples for label in sample.labels})
        found[name] = (family.type, family.documentation, tuple(labels))
    return found


def refusals() -> str:
    """Why the HTTP server ends connections and refuses requests."""
    return _table(("reason", "meaning"), [(f"`{reason}`", text) for reason, text in REASONS.items()])


LABELS = {  # of families that may have no sample yet when they are asked for
    "relay_hosts": ("status",),
    "relay_http_answers": ("route", "status"),
    "relay_http_request_seconds": ("le", "route"),
    "relay_dial_failures_total": ("kind",),
    "relay_thread_failures_total": ("thread",),
}


def metrics(exposition: str) -> str:
    """Every metric: name with labels, type, what it says."""
    rows = []
    for name, (kind, text, labels) in exported(exposition).items():
        labels = labels or LABELS.get(name, ())
        rows.append((f"`{name}{'{' + ','.join(labels) + '}' if labels else ''}`", kind, text))
    return _table(("name", "type", "meaning"), rows)


_PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def table_in(document: Path, name: str) -> str:
    """The table of that name as it stands in a document."""
    for match in _PLACE.finditer(document.read_text(encoding="utf-8")):
        if match[2] == name:
            return match[3].rstrip("\n")
    raise AssertionError(f"{document.name} has no table {name}")


def put(text: str, tables: dict[str, str]) -> str:
    """The document with its tables as given."""
    return _PLACE.sub(lambda match: f"{match[1]}{tables[match[2]]}\n{match[4]}", text)


def _main() -> None:
    with tempfile.TemporaryDirectory() as folder, RelayProcess(Path(folder) / "data", plc_url=NO_PLC) as relay:
        exposition = request(relay.metrics_port, "GET", "/metrics")[1].decode()
    tables = {
        "settings": settings(),
        "drops": reasons("drop"),
        "holds": reasons("hold"),
        "refusals": refusals(),
        "metrics": metrics(exposition),
    }
    for document in DOCUMENTS:
        before = document.read_text(encoding="utf-8")
        after = put(before, tables)
        if after != before:
            document.write_text(after, encoding="utf-8")
            print(f"written: {document.relative_to(ROOT)}")


if __name__ == "__main__":
    _main()
