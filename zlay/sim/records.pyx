"""What stands in the records of simulated accounts: posts, likes, reposts, follows, a profile.

Promises: canonical DRISL; the same random numbers give the same bytes; sizes like those on the network (200 to 400
bytes), or a text of the size asked for. One thread.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from zlay.sim.buffer cimport MAJOR_ARRAY, MAJOR_MAP, MAJOR_TEXT, Buf, buf_reserve, put_bytes, put_head, put_text
from zlay.sim.messages cimport TID_SIZE, tid_text
from zlay.sim.rng cimport Rng


cdef void put_random_text(Buf *out, Rng rng, size_t n) noexcept nogil:
    """n bytes of words into `out`, as a CBOR text."""
    cdef const char *letters = b"etaoinshrdlucmfwypvbgkjqxz etao "
    cdef uint64_t bits = 0
    cdef size_t i
    put_head(out, MAJOR_TEXT, n)
    buf_reserve(out, n)
    for i in range(n):
        if i % 12 == 0:
            bits = rng.next64()
        out.p[out.n + i] = letters[bits & 31]
        bits >>= 5
    out.n += n


cdef void put_random_base32(Buf *out, Rng rng, const char *start, size_t start_n, size_t n) noexcept nogil:
    """A CBOR text of `start` and n characters of base32: a CID or DID inside a record."""
    cdef const char *alphabet = b"abcdefghijklmnopqrstuvwxyz234567"
    cdef uint64_t bits = 0
    cdef size_t i
    put_head(out, MAJOR_TEXT, start_n + n)
    put_bytes(out, start, start_n)
    buf_reserve(out, n)
    for i in range(n):
        if i % 12 == 0:
            bits = rng.next64()
        out.p[out.n + i] = alphabet[bits & 31]
        bits >>= 5
    out.n += n


cdef void put_subject(Buf *out, Rng rng, uint64_t value) noexcept nogil:
    """The strong reference of a like or repost."""
    cdef char text[13]
    put_text(out, b"subject", 7)
    put_head(out, MAJOR_MAP, 2)
    put_text(out, b"cid", 3)
    put_random_base32(out, rng, b"bafyrei", 7, 52)
    put_text(out, b"uri", 3)
    tid_text(value, text)
    put_head(out, MAJOR_TEXT, 5 + 32 + 20 + TID_SIZE)
    put_bytes(out, b"at://did:plc:", 13)
    buf_reserve(out, 24)
    memcpy(out.p + out.n, b"aaaaaaaaaaaaaaaaaaaaaaaa", 24)
    out.n += 24
    put_bytes(out, b"/app.bsky.feed.post/", 20)
    put_bytes(out, text, TID_SIZE)


cdef void make_record(Buf *out, Rng rng, const char *collection, size_t collection_n, uint64_t value, const char *time,
                      size_t time_n, size_t text_n) noexcept nogil:
    """A record block for the collection into `out`; text_n 0 = a usual length."""
    cdef char kind = collection[9] if collection_n > 9 else 0
    out.n = 0
    if collection_n == 18 and kind == c'f' and collection[14] == c'p':      # app.bsky.feed.post
        put_head(out, MAJOR_MAP, 4)
        put_text(out, b"text", 4)
        put_random_text(out, rng, text_n if text_n else 20 + rng.next_below(200))
        put_type(out, collection, collection_n)
        put_text(out, b"langs", 5)
        put_head(out, MAJOR_ARRAY, 1)
        put_text(out, b"en", 2)
    elif collection_n == 22:                                               # app.bsky.actor.profile
        put_head(out, MAJOR_MAP, 3)
        put_type(out, collection, collection_n)
        put_text(out, b"createdAt", 9)
        put_text(out, time, time_n)
        put_text(out, b"description", 11)
        put_random_text(out, rng, text_n if text_n else 20 + rng.next_below(100))
        return
    elif kind == c'g':                                                     # app.bsky.graph.follow
        put_head(out, MAJOR_MAP, 3)
        put_type(out, collection, collection_n)
        put_text(out, b"subject", 7)
        put_random_base32(out, rng, b"did:plc:", 8, 24)
    else:                                                                  # app.bsky.feed.like, .repost
        put_head(out, MAJOR_MAP, 3)
        put_type(out, collection, collection_n)
        put_subject(out, rng, value)
    put_text(out, b"createdAt", 9)
    put_text(out, time, time_n)


cdef void put_type(Buf *out, const char *collection, size_t n) noexcept nogil:
    put_text(out, b"$type", 5)
    put_text(out, collection, n)


cdef const char *pick_collection(Rng rng, bint post, size_t *n) noexcept nogil:
    """Shares as seen on the network: likes more than half, then posts, reposts and follows."""
    cdef uint64_t dice = rng.next_below(20)
    if post or dice < 5:
        n[0] = 18
        return b"app.bsky.feed.post"
    if dice < 16:
        n[0] = 18
        return b"app.bsky.feed.like"
    if dice < 18:
        n[0] = 20
        return b"app.bsky.feed.repost"
    n[0] = 21
    return b"app.bsky.graph.follow"
