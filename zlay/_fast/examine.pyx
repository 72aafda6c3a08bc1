"""A segment looked at entry by entry, and with `frames` byte by byte: what is wrong in it, and how much it holds.

Promises: nothing is written, locked or assumed to be right; every entry is either counted with its figures or named
with the first thing that is wrong about it. Only files are read: it works beside a running relay as on a stopped one.
Assumes: both descriptors stay open while the Examiner lives. Threads: one per Examiner, which reads without the
interpreter.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from fileio cimport EIO, fstat, stat_s
from hashes cimport zl_crc32c

from zlay._fast.log cimport did_hash
from zlay._fast.mem cimport MEM_LOG, zl_free, zl_malloc, zl_realloc
from zlay._fast.message cimport Peek, message_is_whole, message_peek
from zlay._fast.segments cimport (SEG_ENTRY_BYTES, SEG_HEADER_BYTES, IndexEntry, entry_inside, entry_valid, read_all,
                                  ws_header_bytes)
from zlay._fast.sequencer cimport LOG_LOCAL
from zlay._fast.verdicts cimport K_INFO

__all__ = ["FAULTS", "Examiner"]

cdef enum:
    BLOCK_ENTRIES = 1024         # entries of one read: 64 KiB
    MOST_REPORTED = 200          # ranges of bad events that are named; all are counted
    FRAME_ROOM = 64 << 10        # grown for larger ones
    KINDS = K_INFO               # kinds that a log holds: unknown, commit, sync, identity, account

cdef enum Wrong:
    WRONG_NOTHING
    WRONG_ENTRY
    WRONG_OUTSIDE
    WRONG_ORDER
    WRONG_FRAME
    WRONG_WEBSOCKET
    WRONG_MESSAGE
    WRONG_SEQ
    WRONG_DID
    WRONG_KIND
    WRONG_COUNT

FAULTS = (
    "",
    "the entry's checksum or values are wrong",
    "the frame lies outside the file",
    "the frame does not follow the one before it",
    "the frame's checksum is wrong",
    "the frame is no WebSocket message in its shortest form",
    "the message is no two CBOR items with seq and account",
    "the message has another seq",
    "the message is of another account",
    "the message is of another kind",
)

if len(FAULTS) != WRONG_COUNT:
    raise ImportError("examine: texts and enum differ in number")

cdef struct Found:               # a range of events with the same fault
    uint64_t from_seq
    uint64_t to_seq
    int wrong

cdef class Examiner:
    """One segment, examined from some seq on. `run` goes on where the last call ended."""

    cdef int index_fd
    cdef int frames_fd
    cdef bint with_frames
    cdef uint64_t first_seq
    cdef uint64_t next_seq
    cdef uint64_t next_offset    # where the next frame must begin; 0 = anywhere
    cdef IndexEntry *block       # these two are freed by __dealloc__
    cdef uint8_t *frame
    cdef uint32_t frame_room
    cdef Found found[MOST_REPORTED]
    cdef uint32_t n_found
    cdef uint64_t bad
    cdef uint64_t events
    cdef uint64_t n_bytes
    cdef uint64_t local
    cdef uint64_t kinds[KINDS]
    cdef uint64_t oldest_us
    cdef uint64_t newest_us

    def __cinit__(self, int index_fd, int frames_fd, uint64_t first_seq, uint64_t from_seq, bint frames):
        """`first_seq` is the segment's. `frames`: look at the frames, too; the log's DID key has been set. MemoryError.
        """
        if not 0 < first_seq <= from_seq:
            raise ValueError("a segment has no events before its first one")
        self.index_fd = index_fd
        self.frames_fd = frames_fd
        self.with_frames = frames
        self.first_seq = first_seq
        self.next_seq = from_seq
        self.next_offset = SEG_HEADER_BYTES if from_seq == first_seq else 0
        self.frame_room = FRAME_ROOM
        self.block = <IndexEntry *> zl_malloc(MEM_LOG, BLOCK_ENTRIES * sizeof(IndexEntry))
        self.frame = <uint8_t *> zl_malloc(MEM_LOG, FRAME_ROOM)
        if self.block == NULL or self.frame == NULL:
            raise MemoryError

    def __dealloc__(self):
        zl_free(self.block)
        zl_free(self.frame)

    cdef int _websocket(self, const IndexEntry *e) noexcept nogil:
        """The WebSocket header of the frame in `frame`: unmasked, binary, whole, the length in its shortest form."""
        cdef uint32_t head = ws_header_bytes(e.length), n = e.length - head, i
        cdef uint64_t said = 0
        if self.frame[0] != 0x82:
            return WRONG_WEBSOCKET
        if head == 2:
            said = self.frame[1]
        else:
            if self.frame[1] != (126 if head == 4 else 127):
                return WRONG_WEBSOCKET
            for i in range(2, head):
                said = said << 8 | self.frame[i]
        return WRONG_NOTHING if said == n else WRONG_WEBSOCKET

    cdef int _content(self, uint64_t seq, const IndexEntry *e) noexcept nogil:
        """What the message says of itself against what its entry says. A Wrong."""
        cdef uint32_t head = ws_header_bytes(e.length)
        cdef const uint8_t *message = self.frame + head
        cdef Peek peek
        cdef int wrong = self._websocket(e)
        if wrong:
            return wrong
        if (not message_is_whole(message, e.length - head) or message_peek(message, e.length - head, &peek) != 0
                or peek.did_n == 0 or peek.seq == 0):
            return WRONG_MESSAGE
        if peek.seq != seq:
            return WRONG_SEQ
        if did_hash(message + peek.did_off, peek.did_n) != e.did_hash:
            return WRONG_DID
        return WRONG_NOTHING if peek.kind == e.kind else WRONG_KIND

    cdef int _bytes(self, uint64_t seq, const IndexEntry *e, int *error) noexcept nogil:
        """Reads the frame and judges it. A Wrong; *error = an errno that is no judgement."""
        cdef uint8_t *larger
        if e.length > self.frame_room:
            larger = <uint8_t *> zl_realloc(MEM_LOG, self.frame, e.length)
            if larger == NULL:
                error[0] = EIO
                return WRONG_NOTHING
            self.frame = larger
            self.frame_room = e.length
        error[0] = read_all(self.frames_fd, self.frame, e.length, e.offset)
        if error[0]:
            return WRONG_NOTHING
        if zl_crc32c(0, self.frame, e.length) != e.frame_crc:
            return WRONG_FRAME
        return self._content(seq, e)

    cdef int _entry(self, uint64_t seq, const IndexEntry *e, uint64_t frames_bytes, int *error) noexcept nogil:
        cdef uint64_t expected = self.next_offset
        cdef int wrong = WRONG_NOTHING
        self.next_offset = 0
        if not entry_valid(seq, e):
            return WRONG_ENTRY
        if not entry_inside(frames_bytes, e):
            return WRONG_OUTSIDE
        self.next_offset = e.offset + e.length
        if expected and e.offset != expected:
            return WRONG_ORDER
        if self.with_frames:
            wrong = self._bytes(seq, e, error)
        return wrong

    cdef void _report(self, uint64_t seq, int wrong) noexcept nogil:
        cdef Found *last = &self.found[self.n_found - 1] if self.n_found else NULL
        self.bad += 1
        if last != NULL and last.to_seq + 1 == seq and last.wrong == wrong:
            last.to_seq = seq
        elif self.n_found < MOST_REPORTED:
            self.found[self.n_found].from_seq = self.found[self.n_found].to_seq = seq
            self.found[self.n_found].wrong = wrong
            self.n_found += 1

    cdef void _count(self, const IndexEntry *e) noexcept nogil:
        self.events += 1
        self.n_bytes += e.length
        self.kinds[e.kind if e.kind < KINDS else 0] += 1
        if e.flags & LOG_LOCAL:
            self.local += 1
        if self.oldest_us == 0 or e.recv_us < self.oldest_us:
            self.oldest_us = e.recv_us
        if e.recv_us > self.newest_us:
            self.newest_us = e.recv_us

    cdef int _run(self, uint64_t to_seq) noexcept nogil:
        """0, or an errno."""
        cdef stat_s st
        cdef uint64_t n, i
        cdef int error = 0, wrong
        while self.next_seq <= to_seq:
            if fstat(self.frames_fd, &st) != 0:
                return EIO
            n = min(to_seq - self.next_seq + 1, <uint64_t> BLOCK_ENTRIES)
            error = read_all(self.index_fd, self.block, n * SEG_ENTRY_BYTES,
                             SEG_HEADER_BYTES + (self.next_seq - self.first_seq) * SEG_ENTRY_BYTES)
            for i in range(n):
                if error:
                    return error
                wrong = self._entry(self.next_seq, &self.block[i], <uint64_t> st.st_size, &error)
                if error:
                    return error
                if wrong:
                    self._report(self.next_seq, wrong)
                else:
                    self._count(&self.block[i])
                self.next_seq += 1
        return 0

    def run(self, uint64_t to_seq):
        """Examine up to to_seq, for which there are entries. Raises OSError."""
        cdef int error
        with nogil:
            error = self._run(to_seq)
        if error:
            raise OSError(error, f"the segment that begins with seq {self.first_seq} cannot be read")

    def result(self):
        """What has been found so far: a dict of bad, faults [(from seq, to seq, text)], events, bytes (of frames),
        local, kinds (a count for each number), oldest_us and newest_us (0 = no events). Only good events count."""
        return {
            "bad": self.bad,
            "faults": [(self.found[i].from_seq, self.found[i].to_seq, FAULTS[self.found[i].wrong])
                       for i in range(self.n_found)],
            "events": self.events, "bytes": self.n_bytes, "local": self.local,
            "kinds": [self.kinds[i] for i in range(KINDS)],
            "oldest_us": self.oldest_us, "newest_us": self.newest_us,
        }
