"""TIDs, and the frames that hosts say: their envelope, and those messages that need no repository.

Strategy: a frame is built in a Buf behind room for the WebSocket head, which is written last, when the length is
known. Promises: canonical DRISL, map keys in order (A4, C12). Assumes: one thread uses this module.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from zlay.sim.buffer cimport (
    CBOR_FALSE,
    CBOR_TRUE,
    MAJOR_MAP,
    MAJOR_UINT,
    Buf,
    buf_reserve,
    put_byte,
    put_bytes,
    put_head,
    put_text,
    put_ws_head,
)

cdef enum:
    HEAD_ROOM = 16           # before the message, for the WebSocket head

# The frame of this module's own messages, and where seq stands in the last frame that anybody built.
cdef Buf frame
cdef size_t seq_at = 0
memset(&frame, 0, sizeof(Buf))


# --- TIDs ---


cdef void tid_text(uint64_t value, char *out) noexcept nogil:
    """13 characters of base32-sortable (C5)."""
    cdef const char *alphabet = b"234567abcdefghijklmnopqrstuvwxyz"
    cdef int i
    for i in range(TID_SIZE):
        out[TID_SIZE - 1 - i] = alphabet[(value >> (5 * i)) & 31]


cdef void put_tid(Buf *b, uint64_t value) noexcept nogil:
    cdef char text[13]
    tid_text(value, text)
    put_text(b, text, TID_SIZE)


def tid(uint64_t value):
    """A TID as text, from its 64-bit number."""
    cdef char text[13]
    tid_text(value, text)
    return text[:TID_SIZE].decode("ascii")


# --- the envelope ---


cdef void put_bytes_text(Buf *b, bytes text):
    put_text(b, <const char *> text, len(text))


cdef void message_begin(Buf *b, const char *type_name, size_t type_n, int fields) noexcept nogil:
    """Starts a frame: room for the WebSocket head, the header (A4), the payload's map head."""
    b.n = 0
    buf_reserve(b, HEAD_ROOM)
    b.n = HEAD_ROOM
    put_head(b, MAJOR_MAP, 2)
    put_text(b, b"t", 1)
    put_text(b, type_name, type_n)
    put_text(b, b"op", 2)
    put_head(b, MAJOR_UINT, 1)
    put_head(b, MAJOR_MAP, fields)


cdef void put_seq(Buf *b, uint64_t seq) noexcept nogil:
    """The field seq; notes where its value stands."""
    global seq_at
    put_text(b, b"seq", 3)
    seq_at = b.n - HEAD_ROOM
    put_head(b, MAJOR_UINT, seq)


cdef bytes message_end(Buf *b):
    """The WebSocket frame made of what stands in the buffer."""
    cdef uint8_t bytes_of_head[HEAD_ROOM]
    cdef Buf head
    head.p = bytes_of_head
    head.n = 0
    head.cap = HEAD_ROOM
    put_ws_head(&head, b.n - HEAD_ROOM)
    memcpy(b.p + HEAD_ROOM - head.n, bytes_of_head, head.n)
    return (<const char *> b.p)[HEAD_ROOM - head.n:b.n]


def seq_offset():
    """Where the value of seq begins in the last frame that was made, counted from the message's first byte."""
    return seq_at


def ws_frame(bytes message not None):
    """A message as one unmasked binary WebSocket frame."""
    frame.n = 0
    buf_reserve(&frame, HEAD_ROOM)
    frame.n = HEAD_ROOM
    put_bytes(&frame, <const char *> message, len(message))
    return message_end(&frame)


# --- messages without a repository ---


def identity_frame(uint64_t seq, bytes did not None, bytes time not None, bytes handle):
    """The WebSocket frame of an #identity (B5); handle None = left out."""
    message_begin(&frame, b"#identity", 9, 4 if handle is not None else 3)
    put_text(&frame, b"did", 3)
    put_bytes_text(&frame, did)
    put_seq(&frame, seq)
    put_text(&frame, b"time", 4)
    put_bytes_text(&frame, time)
    if handle is not None:
        put_text(&frame, b"handle", 6)
        put_bytes_text(&frame, handle)
    return message_end(&frame)


def account_frame(uint64_t seq, bytes did not None, bytes time not None, bint active, bytes status):
    """The WebSocket frame of an #account (B6); status None = left out."""
    message_begin(&frame, b"#account", 8, 5 if status is not None else 4)
    put_text(&frame, b"did", 3)
    put_bytes_text(&frame, did)
    put_seq(&frame, seq)
    put_text(&frame, b"time", 4)
    put_bytes_text(&frame, time)
    put_text(&frame, b"active", 6)
    put_byte(&frame, CBOR_TRUE if active else CBOR_FALSE)
    if status is not None:
        put_text(&frame, b"status", 6)
        put_bytes_text(&frame, status)
    return message_end(&frame)


def unknown_frame(uint64_t seq, bytes did not None, bytes time not None):
    """The WebSocket frame of a message type that does not exist yet: did, seq, time, note, simulated."""
    message_begin(&frame, b"#simulated", 10, 5)
    put_text(&frame, b"did", 3)
    put_bytes_text(&frame, did)
    put_seq(&frame, seq)
    put_text(&frame, b"note", 4)
    put_text(&frame, b"passed through unchanged", 24)
    put_text(&frame, b"time", 4)
    put_bytes_text(&frame, time)
    put_text(&frame, b"simulated", 9)
    put_byte(&frame, CBOR_TRUE)
    return message_end(&frame)


def info_frame(bytes name not None, bytes message not None):
    """The WebSocket frame of an #info (B7)."""
    message_begin(&frame, b"#info", 5, 2)
    put_text(&frame, b"name", 4)
    put_bytes_text(&frame, name)
    put_text(&frame, b"message", 7)
    put_bytes_text(&frame, message)
    return message_end(&frame)


def error_frame(bytes name not None, bytes message not None):
    """The WebSocket frame of an error (A6)."""
    frame.n = 0
    buf_reserve(&frame, HEAD_ROOM)
    frame.n = HEAD_ROOM
    put_bytes(&frame, b"\xa1\x62op\x20", 5)
    put_head(&frame, MAJOR_MAP, 2)
    put_text(&frame, b"error", 5)
    put_bytes_text(&frame, name)
    put_text(&frame, b"message", 7)
    put_bytes_text(&frame, message)
    return message_end(&frame)
