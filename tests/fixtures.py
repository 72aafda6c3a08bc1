"""Where the recorded and published data of others lies, and how to read it.

Promises: every reader returns plain Python data, and skips the test with a clear reason where the folder is absent. Any
thread may call. The folder is `$ZLAY_FIXTURES`, else `../shared/fixtures` beside the project.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent

_ZSTD_CONTENT_MAX = 64 * 1024 * 1024  # far above any fixture: a broken size field must not ask for all memory


def folder() -> Path:
    """The fixtures' folder; skips the calling test where there is none."""
    path = Path(os.environ.get("ZLAY_FIXTURES") or ROOT.parent / "shared" / "fixtures")
    if not path.is_dir():
        pytest.skip(f"no fixtures: {path} does not exist (set ZLAY_FIXTURES)")
    return path


def interop(name: str) -> Any:
    """A file of the interop suite by its name under `interop/`: parsed JSON, or the list of lines of a .txt file.

    Empty lines and lines that begin with '#' are left out.
    """
    path = folder() / "interop" / name
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    return [line for line in text.split("\n") if line and not line.startswith("#")]


@functools.cache
def recorded_frames() -> tuple[bytes, ...]:
    """The 150 raw frames of a production relay (protocol.md H), in the order recorded."""
    raw = _unzstd((folder() / "firehose" / "frames.bin.zst").read_bytes())
    frames = []
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        frames.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return tuple(frames)


@functools.cache
def recorded_did_docs() -> dict[str, Any]:
    """DID -> DID document, for every commit's DID of the recorded frames."""
    documents = json.loads(_unzstd((folder() / "firehose" / "did_docs.json.zst").read_bytes()))
    if isinstance(documents, list):
        return {document["id"]: document for document in documents}
    return dict(documents)


def recorded_expected() -> list[dict[str, Any]]:
    """What a production Jetstream v1 emitted for the recorded frames, one object per event."""
    text = (folder() / "firehose" / "expected_v1.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


def _unzstd(data: bytes) -> bytes:
    # CPython 3.13 has no zstd; libzstd.so.1 is part of every Debian (dpkg needs it).
    try:
        lib = ctypes.CDLL("libzstd.so.1")
    except OSError:
        pytest.skip("libzstd is not installed (Debian: libzstd1)")
    lib.ZSTD_getFrameContentSize.restype = ctypes.c_ulonglong
    lib.ZSTD_decompress.restype = ctypes.c_size_t
    lib.ZSTD_decompress.argtypes = [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_char_p, ctypes.c_size_t]
    size = min(lib.ZSTD_getFrameContentSize(data, len(data)), _ZSTD_CONTENT_MAX)
    out = ctypes.create_string_buffer(size)
    got = lib.ZSTD_decompress(out, size, data, len(data))
    if lib.ZSTD_isError(ctypes.c_size_t(got)):
        raise ValueError("a fixture is not one zstd frame of known size")
    return out.raw[:got]
