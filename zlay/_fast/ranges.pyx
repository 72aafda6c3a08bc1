"""From a position in the log to bytes for sendfile: index entries are read and checked, frames are not touched.

Promises: a range holds whole frames of one segment, published and undamaged, without a hole between them; the segment
is held while it is read, also after retention has unlinked it, for ten minutes at most. Assumes: one thread per Range.
This is where a takedown is carried out, for replay and live alike: a range ends before an event of a hidden account,
and the next one begins behind it. What this relay says of the account itself, and #identity, stay visible (E9).
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from atomics cimport zl_load64, zl_monotonic_us, zl_store64

from zlay._fast.hidden cimport hidden_any, hidden_count, hidden_generation, hidden_is, hidden_maybe
from zlay._fast.log cimport LOG_LOCAL, log_published_end
from zlay._fast.mem cimport MEM_CONSUMER, zl_free, zl_malloc
from zlay._fast.message cimport Peek, message_peek
from zlay._fast.segments cimport (SEG_BUSY, SEG_FOUND, SEG_LOST, SEG_OPEN_END, IndexEntry, entry_inside, entry_valid,
                                  read_all, segment_acquire, segment_entries, segment_release, segments_count_damage,
                                  segments_oldest, ws_header_bytes)
from zlay._fast.verdicts cimport K_IDENTITY

__all__ = ["left_in_segment"]

cdef enum:
    READ_ENTRIES = 64            # index entries read at once: 4 KiB of a consumer's stack

cdef uint64_t _grace_us = 600000000  # how long a segment may be read on after retention has unlinked it


cdef int _hold_segment(Range *r, uint64_t *next_seq) noexcept nogil:
    """Sees to it that the segment of *next_seq is held. A RangeOutcome: READY = it is, and *next_seq is in it."""
    cdef uint64_t at, seq = zl_load64(next_seq)
    cdef int found
    if r.segment != NULL and seq <= zl_load64(&r.segment.last_seq):
        return RANGE_RETIRED if range_overdue(r) else RANGE_READY
    range_free(r)
    while True:
        found = segment_acquire(seq, &r.segment, &at)
        if found == SEG_BUSY:
            return RANGE_FAILED
        if found == SEG_LOST:
            segments_count_damage(1)
            seq = at
            continue
        if found != SEG_FOUND:
            return RANGE_NONE
        if at != seq and seq < segments_oldest():
            return RANGE_RETIRED
        zl_store64(next_seq, at)
        return RANGE_READY


cdef bint _confirmed(const Range *r, uint64_t seq, const IndexEntry *e) noexcept nogil:
    """Whether the frame is of the hidden account that its hash points to. One that cannot be read stays hidden."""
    cdef uint8_t *frame = <uint8_t *> zl_malloc(MEM_CONSUMER, e.length)
    cdef uint32_t head = ws_header_bytes(e.length)
    cdef Peek peek
    cdef bint hidden = True
    if frame == NULL:
        return True
    if (read_all(r.segment.frames_fd, frame, e.length, e.offset) == 0
            and message_peek(frame + head, e.length - head, &peek) == 0):
        hidden = hidden_is(seq, e.did_hash, frame + head + peek.did_off, peek.did_n)
    zl_free(frame)
    return hidden


cdef inline bint _is_hidden(const Range *r, uint64_t seq, const IndexEntry *e) noexcept nogil:
    return (hidden_any() and not e.flags & LOG_LOCAL and e.kind != K_IDENTITY and hidden_maybe(seq, e.did_hash)
            and _confirmed(r, seq, e))


cdef uint64_t _take(Range *r, uint64_t seq, const IndexEntry *entries, int n) noexcept nogil:
    """Of n entries from seq on, as many as are good, follow on what the range holds, and are not too much at once.

    Returns how many hidden ones stand before them; after the range's first event there are none.
    """
    cdef uint64_t end = <uint64_t> r.end, hidden = 0
    cdef const IndexEntry *e
    cdef int i
    for i in range(n):
        e = &entries[i]
        if not entry_valid(seq + i, e) or not entry_inside(zl_load64(&r.segment.frames_bytes), e):
            break
        if _is_hidden(r, seq + i, e):
            if r.n:
                break
            hidden += 1
            continue
        if r.n == 0:
            r.start = r.offset = <int64_t> e.offset
        elif e.offset != end or end - <uint64_t> r.start + e.length > RANGE_BYTES:
            break
        end = e.offset + e.length
        r.ends[r.n] = <uint32_t> (end - <uint64_t> r.start)
        r.n += 1
    r.end = <int64_t> end if r.n else r.offset
    return hidden


cdef inline int _read(const Range *r, uint64_t seq, uint64_t last, IndexEntry *entries) noexcept nogil:
    """Entries from seq to last, as many as fit at once and are there; negative = -errno."""
    return segment_entries(r.segment, seq, <uint32_t> min(last - seq + 1, <uint64_t> READ_ENTRIES), entries)


cdef void _extend(Range *r, uint64_t first, uint64_t last, IndexEntry *entries) noexcept nogil:
    """What follows on the range, which begins with event `first`. What goes wrong here is met again by the next one."""
    cdef uint32_t before
    cdef int n
    while first + r.n <= last and r.n <= RANGE_ENTRIES - READ_ENTRIES:
        before = r.n
        n = _read(r, first + r.n, last, entries)
        if n > 0:
            _take(r, first + r.n, entries, n)
        if r.n - before < READ_ENTRIES:
            return


cdef int range_next(Range *r, uint64_t *next_seq) noexcept nogil:
    cdef IndexEntry entries[READ_ENTRIES]
    cdef uint64_t published = log_published_end(), seq, last, hidden
    cdef int n, held
    r.generation = hidden_generation()
    r.n = 0
    while zl_load64(next_seq) <= published:
        held = _hold_segment(r, next_seq)
        if held != RANGE_READY:
            return held
        seq = zl_load64(next_seq)
        if seq > published:
            break
        last = zl_load64(&r.segment.last_seq)
        n = _read(r, seq, min(last, published), entries)
        if n < 0:
            return RANGE_FAILED
        if n == 0:
            if zl_load64(&r.segment.last_seq) == SEG_OPEN_END:
                break                            # being written again after a failed sync
            segments_count_damage(last - seq + 1)
            zl_store64(next_seq, last + 1)
            continue
        hidden = _take(r, seq, entries, n)
        if hidden:
            hidden_count(hidden)
            zl_store64(next_seq, seq + hidden)
        elif r.n == 0:
            segments_count_damage(1)
            zl_store64(next_seq, seq + 1)
        if r.n:
            if hidden + r.n == READ_ENTRIES:
                _extend(r, seq + hidden, min(last, published), entries)
            return RANGE_READY
    return RANGE_NONE


cdef void range_cut(Range *r) noexcept nogil:
    cdef uint32_t i
    if r.offset == r.start:
        r.end = r.offset
        r.n = 0
        return
    for i in range(r.n):
        if r.start + r.ends[i] >= r.offset:
            r.end = r.start + r.ends[i]
            r.n = i + 1
            return


cdef bint range_is_stale(const Range *r) noexcept nogil:
    return r.offset < r.end and r.generation != hidden_generation()


cdef bint range_overdue(const Range *r) noexcept nogil:
    cdef uint64_t at = zl_load64(&r.segment.retired_us) if r.segment != NULL else 0
    return at != 0 and zl_monotonic_us() - at > _grace_us


cdef void range_set_grace(uint64_t grace_us) noexcept nogil:
    global _grace_us
    _grace_us = grace_us


cdef void range_free(Range *r) noexcept nogil:
    if r.segment != NULL:
        segment_release(r.segment)
        r.segment = NULL


def left_in_segment(uint64_t seq):
    """(first seq of its segment, bytes from the event of seq to what is written of it, receive time in unix us).

    Of the next event kept where that one is not. None where there is none, or it cannot be read. Any thread.
    """
    cdef Segment *s
    cdef IndexEntry e
    cdef uint64_t at, frames_bytes = 0
    cdef bint good = False
    with nogil:
        if segment_acquire(seq, &s, &at) == SEG_FOUND:
            frames_bytes = zl_load64(&s.frames_bytes)
            good = segment_entries(s, at, 1, &e) == 1 and entry_valid(at, &e) and entry_inside(frames_bytes, &e)
            seq = s.first_seq
            segment_release(s)
    return (seq, frames_bytes - e.offset, e.recv_us) if good else None
