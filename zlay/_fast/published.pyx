"""`events/published`: the published end of a running relay, for tools that read its log from another process.

Promises: the file never says more than what consumers may see; writing it costs one pwrite within a page and no sync.
It is a word among neighbours, no part of the log: recovery does not look at it, a failed write leaves the older, lower
number, and bytes that were torn have a wrong checksum. docs/eventlog.md gives every byte.

Threads: open_file and close_file belong to who opens and closes the log, while it has no writer; published_note to the
writer alone; parse to any.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

from atomics cimport zl_realtime_us
from fileio cimport close, dup, errno, pwrite
from hashes cimport zl_crc32c

__all__ = ["NOTE_BYTES", "close_file", "open_file", "parse"]

cdef enum:
    VERSION = 1
    BYTES = 64

cdef extern from *:
    """
    #define PUBLISHED_MAGIC "zlay.pub"
    """
    const char *PUBLISHED_MAGIC

cdef struct Note:                # as on disk, little endian
    char magic[8]
    uint32_t version
    uint32_t note_bytes
    uint8_t store_id[16]
    uint64_t published_end
    uint64_t noted_us
    uint8_t reserved[12]
    uint32_t crc                 # CRC-32C of the 60 bytes before it

NOTE_BYTES = BYTES

cdef int _fd = -1
cdef Note _note                  # as written last; the writer's


cdef void published_note(uint64_t seq) noexcept nogil:
    if _fd < 0:
        return
    _note.published_end = seq
    _note.noted_us = zl_realtime_us()
    _note.crc = zl_crc32c(0, &_note, 60)
    pwrite(_fd, &_note, BYTES, 0)


# --- for zlay.eventlog, tests and tools ---

def open_file(int fd, bytes store_id, uint64_t published_end):
    """Note it from now on in this file, of which a descriptor of our own is made. Raises OSError."""
    global _fd
    if _fd >= 0:
        raise RuntimeError("a file is open already")
    if len(store_id) != 16:
        raise ValueError("a store id has 16 bytes")
    _fd = dup(fd)
    if _fd < 0:
        raise OSError(errno, "cannot duplicate a descriptor")
    memset(&_note, 0, sizeof(Note))
    memcpy(_note.magic, PUBLISHED_MAGIC, 8)
    _note.version = VERSION
    _note.note_bytes = BYTES
    memcpy(_note.store_id, PyBytes_AS_STRING(store_id), 16)
    published_note(published_end)


def close_file():
    """Note nothing any more; the file stays."""
    global _fd
    if _fd >= 0:
        close(_fd)
    _fd = -1


def parse(bytes data):
    """(store id, published end) of such a file's bytes; None where they are not whole."""
    cdef Note note
    if len(data) < BYTES:
        return None
    memcpy(&note, PyBytes_AS_STRING(data), BYTES)
    if (memcmp(note.magic, PUBLISHED_MAGIC, 8) != 0 or note.crc != zl_crc32c(0, &note, 60)
            or note.version != VERSION or note.note_bytes != BYTES):
        return None
    return PyBytes_FromStringAndSize(<const char *> note.store_id, 16), note.published_end
