"""The segment table: which files of the log are kept, who holds them, and what stands where in them.

A segment is a pair of files, `{first_seq:020}.frames` and `.index`; docs/eventlog.md gives every byte. Promises: one
that somebody holds stays readable to its end, also after retention has unlinked it; finding the segment of a seq takes
O(log n); only segments that are held keep files open. Assumes: little endian, one process per directory.

Threads: any may find, hold, read and let go. The log's writer alone creates. Retention may run in any thread, one at a
time (`_retain_lock`). `_lock` guards the array, the reference counts and the opening of files; it is never held over a
read, a write or a sync of event data. Order: `_retain_lock` before `_lock`.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memcmp, memcpy, memmove, memset

from atomics cimport zl_add64, zl_load64, zl_load64_relaxed, zl_monotonic_us, zl_realtime_us, zl_store64, zl_sub64
from crash_points cimport zl_crash_point
from fileio cimport (EEXIST, EINTR, EIO, ENOENT, O_CLOEXEC, O_CREAT, O_EXCL, O_RDONLY, O_RDWR, close, dup, errno,
                     fdatasync, fstatvfs, fsync, openat, pread, pwrite, statvfs_s, unlinkat)
from hashes cimport zl_crc32c, zl_crc32c_soft
from threads cimport zl_lock, zl_mutex, zl_unlock

from zlay._fast.mem cimport MEM_LOG, zl_calloc, zl_free, zl_malloc, zl_realloc

__all__ = ["check_header", "close_table", "crc32c", "open_table", "read_batch", "retain", "status", "table"]

cdef enum:
    NAME_BYTES = 32              # 20 digits, '.', 6 letters, NUL
    FIRST_ROOM = 256             # segments the table has room for at first; doubled when full

cdef extern from *:
    """
    #define FRAMES_MAGIC "zlay.frm"
    #define INDEX_MAGIC "zlay.idx"
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the event log is written and read as it stands in memory: little endian only"
    #endif
    """
    const char *FRAMES_MAGIC
    const char *INDEX_MAGIC

cdef zl_mutex _lock
cdef zl_mutex _retain_lock
cdef Segment **_items = NULL     # ascending first_seq; this array is the table's, freed by close_table
cdef uint32_t _n = 0
cdef uint32_t _room = 0
cdef int _dir = -1
cdef uint8_t _store_id[16]
cdef uint64_t _damaged = 0       # atomic: entries skipped by readers
cdef uint64_t _retired = 0       # atomic: segments that retention has taken away
cdef uint64_t _held_bytes = 0    # atomic: files already unlinked, space still in use because somebody reads them


cdef int write_all(int fd, const void *data, size_t n, uint64_t offset) noexcept nogil:
    cdef ssize_t done
    while n:
        done = pwrite(fd, data, n, <int64_t> offset)
        if done < 0:
            if errno == EINTR:
                continue
            return errno
        if done == 0:
            return EIO
        data = <const uint8_t *> data + done
        offset += <uint64_t> done
        n -= <size_t> done
    return 0


cdef int read_all(int fd, void *data, size_t n, uint64_t offset) noexcept nogil:
    cdef ssize_t done
    while n:
        done = pread(fd, data, n, <int64_t> offset)
        if done < 0:
            if errno == EINTR:
                continue
            return errno
        if done == 0:
            return EIO
        data = <uint8_t *> data + done
        offset += <uint64_t> done
        n -= <size_t> done
    return 0


cdef void _name(char *out, uint64_t first_seq, const char *kind) noexcept nogil:
    snprintf(out, NAME_BYTES, b"%020llu.%s", <unsigned long long> first_seq, kind)


cdef uint64_t _files_bytes(const Segment *s) noexcept nogil:
    """Size of both files; of the active segment, what is written of it."""
    cdef uint64_t last = zl_load64(&s.last_seq)
    cdef uint64_t n = 0 if last == SEG_OPEN_END or last < s.first_seq else last - s.first_seq + 1
    return zl_load64(&s.frames_bytes) + SEG_HEADER_BYTES + n * SEG_ENTRY_BYTES


cdef void _close_files(Segment *s) noexcept nogil:
    if s.frames_fd >= 0:
        close(s.frames_fd)
    if s.index_fd >= 0:
        close(s.index_fd)
    s.frames_fd = s.index_fd = -1


cdef bint _header_good(const SegHeader *h, const char *magic) noexcept nogil:
    return memcmp(h.magic, magic, 8) == 0 and zl_crc32c(0, h, 60) == h.crc


cdef int _open_files(Segment *s) noexcept nogil:
    """Requires `_lock`. 0, or an errno. A damaged header does not matter (name and entries say the same); a whole one
    of another store, place or version makes the segment foreign."""
    cdef char name[NAME_BYTES]
    cdef SegHeader h
    cdef int i, fd, mode = O_RDWR if zl_load64(&s.last_seq) == SEG_OPEN_END else O_RDONLY
    cdef int error
    for i in range(2):
        _name(name, s.first_seq, b"frames" if i == 0 else b"index")
        fd = openat(_dir, name, mode | O_CLOEXEC)
        if fd < 0:
            error = errno
            _close_files(s)
            return error
        if i == 0:
            s.frames_fd = fd
        else:
            s.index_fd = fd
        if read_all(fd, &h, SEG_HEADER_BYTES, 0) == 0 and _header_good(&h, FRAMES_MAGIC if i == 0 else INDEX_MAGIC):
            if memcmp(h.store_id, _store_id, 16) != 0 or h.first_seq != s.first_seq or h.version != SEG_VERSION:
                s.foreign = True
                _close_files(s)
                return ENOENT
            s.previous_last = h.previous_last
    return 0


cdef uint32_t _find(uint64_t seq) noexcept nogil:
    """Requires `_lock`. Index of the segment that holds seq, or of the next one; _n when there is none."""
    cdef uint32_t low = 0, high = _n, middle
    while low < high:                                # first one that begins after seq
        middle = (low + high) >> 1
        if _items[middle].first_seq <= seq:
            low = middle + 1
        else:
            high = middle
    if low and seq <= zl_load64(&_items[low - 1].last_seq):
        return low - 1
    return low


cdef int segment_acquire(uint64_t seq, Segment **out, uint64_t *out_seq) noexcept nogil:
    cdef uint32_t i
    cdef int error
    cdef int found = SEG_FOUND
    cdef Segment *s
    zl_lock(&_lock)
    i = _find(seq)
    if i == _n:
        zl_unlock(&_lock)
        return SEG_NONE
    s = _items[i]
    out_seq[0] = seq if seq > s.first_seq else s.first_seq
    error = 0
    if s.foreign:
        error = ENOENT
    elif s.frames_fd < 0:
        error = _open_files(s)
    if error:
        found = SEG_LOST if error == ENOENT else SEG_BUSY
        out_seq[0] = zl_load64(&s.last_seq) + 1
    else:
        s.refs += 1
        out[0] = s
    zl_unlock(&_lock)
    return found


cdef void segment_release(Segment *s) noexcept nogil:
    cdef bint gone
    zl_lock(&_lock)
    s.refs -= 1
    gone = s.refs == 0 and s.retired_us != 0
    if s.refs == 0:
        _close_files(s)
    zl_unlock(&_lock)
    if gone:
        zl_sub64(&_held_bytes, _files_bytes(s))
        zl_free(s)


cdef int segment_entries(Segment *s, uint64_t seq, uint32_t want, IndexEntry *out) noexcept nogil:
    cdef ssize_t done
    while True:
        done = pread(s.index_fd, out, <size_t> want * SEG_ENTRY_BYTES,
                     <int64_t> (SEG_HEADER_BYTES + (seq - s.first_seq) * SEG_ENTRY_BYTES))
        if done >= 0:
            return <int> (done // SEG_ENTRY_BYTES)
        if errno != EINTR:
            return -errno


cdef uint64_t segments_oldest() noexcept nogil:
    cdef uint64_t seq
    zl_lock(&_lock)
    seq = _items[0].first_seq if _n else 0
    zl_unlock(&_lock)
    return seq


cdef Segment *segments_active() noexcept nogil:
    cdef Segment *s
    zl_lock(&_lock)
    s = _items[_n - 1] if _n else NULL
    zl_unlock(&_lock)
    return s


cdef void segments_count_damage(uint64_t n) noexcept nogil:
    zl_add64(&_damaged, n)


cdef bint _push(Segment *s) noexcept nogil:
    """Requires `_lock`. False = no memory."""
    global _n, _room, _items
    cdef uint32_t room
    cdef Segment **items
    if _n == _room:
        room = _room * 2 if _room else FIRST_ROOM
        items = <Segment **> zl_realloc(MEM_LOG, _items, room * sizeof(Segment *))
        if items == NULL:
            return False
        _items = items
        _room = room
    _items[_n] = s
    _n += 1
    return True


cdef void _take_out(uint32_t i) noexcept nogil:
    """Requires `_lock`. Leaves the segment to its holders, or frees it."""
    global _n
    cdef Segment *s = _items[i]
    memmove(&_items[i], &_items[i + 1], (_n - i - 1) * sizeof(Segment *))
    _n -= 1
    if s.refs:
        zl_add64(&_held_bytes, _files_bytes(s))
        zl_store64(&s.retired_us, zl_monotonic_us())
    else:
        zl_free(s)


cdef void _unlink(uint64_t first_seq) noexcept nogil:
    """The index goes first: .frames without .index is what a kill in between leaves, and what an opening cleans up."""
    cdef char name[NAME_BYTES]
    _name(name, first_seq, b"index")
    unlinkat(_dir, name, 0)
    zl_crash_point(b"unlink.between")
    _name(name, first_seq, b"frames")
    unlinkat(_dir, name, 0)


cdef int _create_file(uint64_t first_seq, uint64_t previous_last, bint frames, int *out) noexcept nogil:
    cdef char name[NAME_BYTES]
    cdef SegHeader h
    cdef int fd, error
    memset(&h, 0, sizeof(h))
    memcpy(h.magic, FRAMES_MAGIC if frames else INDEX_MAGIC, 8)
    h.version = SEG_VERSION
    h.header_bytes = SEG_HEADER_BYTES
    memcpy(h.store_id, _store_id, 16)
    h.first_seq = first_seq
    h.previous_last = previous_last
    h.created_us = zl_realtime_us()
    h.crc = zl_crc32c(0, &h, 60)
    _name(name, first_seq, b"frames" if frames else b"index")
    fd = openat(_dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0o640)
    if fd < 0:
        return errno
    out[0] = fd
    if frames:
        zl_crash_point(b"birth.frames")
    else:
        zl_crash_point(b"birth.index")
    error = write_all(fd, &h, SEG_HEADER_BYTES, 0)
    if error == 0 and fdatasync(fd) != 0:
        error = errno
    return error


cdef int segment_create(uint64_t first_seq, uint64_t previous_last, Segment **out) noexcept nogil:
    """A new active segment. The caller holds it once, and has let go of nothing yet.

    Where the active one holds no event below first_seq (a first group whose sync failed), the new one takes its name:
    the old files are unlinked first, its readers keep what they have open.
    """
    cdef Segment *before
    cdef Segment *s = <Segment *> zl_calloc(MEM_LOG, sizeof(Segment))
    cdef int error
    cdef bint replaces
    if s == NULL:
        return EIO
    s.first_seq = first_seq
    s.previous_last = previous_last
    s.last_seq = SEG_OPEN_END
    s.frames_bytes = SEG_HEADER_BYTES
    s.frames_fd = s.index_fd = -1
    s.refs = 1
    before = segments_active()
    replaces = before != NULL and before.first_seq == first_seq
    if replaces:
        _unlink(first_seq)
    error = _create_file(first_seq, previous_last, True, &s.frames_fd)
    if error == 0:
        zl_crash_point(b"birth.between")
        error = _create_file(first_seq, previous_last, False, &s.index_fd)
    zl_crash_point(b"birth.after")
    if error == 0 and fsync(_dir) != 0:
        error = errno
    if error:
        if s.frames_fd >= 0 or error == EEXIST:      # left by an earlier birth that could not be taken back
            _unlink(first_seq)
        _close_files(s)
        zl_free(s)
        return error
    zl_lock(&_lock)
    if replaces:
        zl_store64(&before.last_seq, previous_last)
        _take_out(_n - 1)
    elif before != NULL:
        zl_store64(&before.last_seq, previous_last)
    if not _push(s):
        error = EIO
    zl_unlock(&_lock)
    if error:
        _unlink(first_seq)
        _close_files(s)
        zl_free(s)
        return error
    out[0] = s
    return 0


cdef uint64_t _newest_us(uint64_t seq) noexcept nogil:
    """Receive time of the last readable event of the segment of seq; 0 = cannot be said."""
    cdef Segment *s
    cdef uint64_t at, newest
    cdef IndexEntry e
    if segment_acquire(seq, &s, &at) != SEG_FOUND:
        return 0
    newest = zl_load64(&s.newest_us)
    if newest == 0:
        at = zl_load64(&s.last_seq)
        if at != SEG_OPEN_END and segment_entries(s, at, 1, &e) == 1 and entry_valid(at, &e):
            newest = e.recv_us
            zl_store64(&s.newest_us, newest)
    segment_release(s)
    return newest


cdef uint64_t _space_wanted(uint64_t free_percent) noexcept nogil:
    """Bytes short of the wanted free space, what readers still hold counted as free already."""
    cdef statvfs_s v
    cdef uint64_t free, wanted
    if free_percent == 0 or fstatvfs(_dir, &v) != 0:
        return 0
    free = <uint64_t> v.f_bavail * v.f_frsize + zl_load64(&_held_bytes)
    wanted = <uint64_t> v.f_blocks * v.f_frsize // 100 * free_percent
    return wanted - free if wanted > free else 0


cdef uint64_t segments_retain(uint64_t max_age_us, uint64_t max_bytes, uint64_t free_percent, uint64_t keep_from,
                              uint64_t newest_us) noexcept nogil:
    """Takes whole segments away from the old end while one of the three bounds (0 = none) is broken; never the active
    one, never one that holds keep_from or later."""
    cdef uint64_t total = 0, short, gone = 0, first, last, size, age_of
    cdef uint32_t i
    zl_lock(&_retain_lock)
    short = _space_wanted(free_percent)
    zl_lock(&_lock)
    for i in range(_n):
        total += _files_bytes(_items[i])
    zl_unlock(&_lock)
    while True:
        zl_lock(&_lock)
        if _n < 2:
            zl_unlock(&_lock)
            break
        first = _items[0].first_seq
        last = zl_load64(&_items[0].last_seq)
        size = _files_bytes(_items[0])
        zl_unlock(&_lock)
        if last >= keep_from:
            break
        if not (short > gone or (max_bytes and total > max_bytes)):
            if max_age_us == 0:
                break
            age_of = _newest_us(first)
            if age_of == 0 or newest_us <= age_of or newest_us - age_of <= max_age_us:
                break
        zl_lock(&_lock)
        _take_out(0)
        zl_unlock(&_lock)
        zl_crash_point(b"retire.before")
        _unlink(first)
        zl_crash_point(b"retire.after")
        zl_add64(&_retired, 1)
        total -= size
        gone += size
        # One at a time: of several that a power loss brings back it might bring back one in the middle.
        if fsync(_dir) != 0:
            break
    zl_unlock(&_retain_lock)
    return gone


# --- for zlay.eventlog, tests and tools ---

def open_table(int dir_fd, bytes store_id, list rows, bint append):
    """Fill the table; the directory is the table's own (a duplicate). Before any other thread uses the log.

    Each row is (first_seq, last_seq, bytes of .frames), ascending. append = the last one will be written to.
    """
    global _dir
    cdef Segment *s
    cdef uint64_t before = 0
    if _dir >= 0:
        raise RuntimeError("the segment table is open already")
    if len(store_id) != 16:
        raise ValueError("a store id has 16 bytes")
    memcpy(_store_id, PyBytes_AS_STRING(store_id), 16)
    _dir = dup(dir_fd)
    if _dir < 0:
        raise OSError(errno, "cannot duplicate the directory")
    for first_seq, last_seq, frames_bytes in rows:
        s = <Segment *> zl_calloc(MEM_LOG, sizeof(Segment))
        if s == NULL:
            raise MemoryError
        s.first_seq = first_seq
        s.last_seq = last_seq
        s.frames_bytes = frames_bytes
        s.frames_fd = s.index_fd = -1
        if _n and s.first_seq <= before:
            zl_free(s)
            raise ValueError("segments out of order")
        before = s.first_seq
        _push(s)
    if append and _n:
        _items[_n - 1].last_seq = SEG_OPEN_END


def close_table():
    """Forget all segments. Whoever still holds one makes this an error: consumers and the writer end first."""
    global _n, _room, _items, _dir, _damaged, _retired
    cdef uint32_t i
    for i in range(_n):
        if _items[i].refs:
            raise RuntimeError("a segment is still being read")
    for i in range(_n):
        zl_free(_items[i])
    if _items != NULL:
        zl_free(_items)
    _items = NULL
    _n = _room = 0
    _damaged = _retired = 0
    if _dir >= 0:
        close(_dir)
    _dir = -1


def table():
    """(first_seq, last_seq or None of the active one, bytes of .frames, holders) of each segment, oldest first."""
    cdef uint32_t i, n
    cdef Segment *copies
    cdef Segment *s
    # Copied first: no object is made under the lock, for a collection could then wait for who waits for the lock.
    with nogil:
        zl_lock(&_lock)
        n = _n
        copies = <Segment *> zl_malloc(MEM_LOG, (n + 1) * sizeof(Segment))
        if copies != NULL:
            for i in range(n):
                s = _items[i]
                copies[i].first_seq = s.first_seq
                copies[i].last_seq = zl_load64(&s.last_seq)
                copies[i].frames_bytes = zl_load64(&s.frames_bytes)
                copies[i].refs = s.refs
        zl_unlock(&_lock)
    if copies == NULL:
        raise MemoryError
    rows = [(copies[i].first_seq, None if copies[i].last_seq == SEG_OPEN_END else copies[i].last_seq,
             copies[i].frames_bytes, copies[i].refs) for i in range(n)]
    zl_free(copies)
    return rows


def status():
    """Counters: damaged entries skipped, segments retired, bytes unlinked but still held, segments and bytes kept."""
    cdef uint32_t i
    cdef uint64_t total = 0
    zl_lock(&_lock)
    for i in range(_n):
        total += _files_bytes(_items[i])
    i = _n
    zl_unlock(&_lock)
    return {"damaged": zl_load64_relaxed(&_damaged), "retired": zl_load64_relaxed(&_retired),
            "held_bytes": zl_load64_relaxed(&_held_bytes), "segments": i, "bytes": total}


def retain(uint64_t max_age_us, uint64_t max_bytes, uint64_t free_percent, uint64_t keep_from, uint64_t newest_us):
    """segments_retain; any thread. Returns the bytes taken away."""
    cdef uint64_t gone
    with nogil:
        gone = segments_retain(max_age_us, max_bytes, free_percent, keep_from, newest_us)
    return gone


def check_header(bytes data, bint frames):
    """What a header says: (version, store id, first_seq, previous_last, created_us), or None where it is damaged."""
    cdef SegHeader h
    if len(data) < SEG_HEADER_BYTES:
        return None
    memcpy(&h, PyBytes_AS_STRING(data), SEG_HEADER_BYTES)
    if not _header_good(&h, FRAMES_MAGIC if frames else INDEX_MAGIC):
        return None
    store_id = PyBytes_FromStringAndSize(<const char *> h.store_id, 16)
    return (h.version, store_id, h.first_seq, h.previous_last, h.created_us)


def read_batch(uint64_t seq, uint64_t to_seq, bint frames, uint64_t max_bytes=4 << 20):
    """Entries from seq to to_seq, at most one read's worth, and where to go on: (rows, next_seq).

    A row is (seq, kind, flags, upstream status, effective status, host id, host epoch, upstream seq, receive time,
    DID hash, length, message bytes or None). Damaged entries are skipped and counted. next_seq > to_seq = all read.
    Any thread. Raises OSError when a segment cannot be read just now.
    """
    cdef Segment *s
    cdef uint64_t at, last
    cdef IndexEntry entries[SEG_READ_ENTRIES]
    cdef IndexEntry *e
    cdef int found, n, i, error
    cdef uint32_t header, want
    cdef uint64_t taken = 0
    cdef bytes frame
    cdef char *data
    rows = []
    with nogil:
        found = segment_acquire(seq, &s, &at)
    if found == SEG_BUSY:
        raise OSError(EIO, "a segment of the log cannot be opened")
    if found == SEG_NONE or at > to_seq:
        return rows, to_seq + 1
    if found == SEG_LOST:
        segments_count_damage(1)
        return rows, at
    try:
        last = min(zl_load64(&s.last_seq), to_seq)
        want = <uint32_t> min(last - at + 1, <uint64_t> SEG_READ_ENTRIES)
        with nogil:
            n = segment_entries(s, at, want, entries)
        if n < 0:
            raise OSError(-n, "the index of the log cannot be read")
        if n == 0:
            if last == zl_load64(&s.last_seq):       # shorter than its own end says
                segments_count_damage(last - at + 1)
            return rows, last + 1
        for i in range(n):
            e = &entries[i]
            if not entry_valid(at + i, e) or not entry_inside(zl_load64(&s.frames_bytes), e):
                segments_count_damage(1)
                continue
            frame = None
            if frames:
                if rows and taken + e.length > max_bytes:
                    return rows, at + i
                taken += e.length
                frame = PyBytes_FromStringAndSize(NULL, e.length)
                data = PyBytes_AS_STRING(frame)      # nobody else has seen this object yet
                with nogil:
                    error = read_all(s.frames_fd, data, e.length, e.offset)
                if error and error != EIO:
                    raise OSError(error, "the log cannot be read")
                if error or zl_crc32c(0, data, e.length) != e.frame_crc:
                    segments_count_damage(1)
                    continue
                header = ws_header_bytes(e.length)
                frame = frame[header:]
            rows.append((at + i, e.kind, e.flags, e.upstream_status, e.effective_status, e.host_id, e.host_epoch,
                         e.upstream_seq, e.recv_us, e.did_hash, e.length, frame))
        return rows, at + n
    finally:
        segment_release(s)


def crc32c(bytes data, bint software=False):
    """CRC-32C of data, by the machine's instruction where it has one, or by the table."""
    if software:
        return zl_crc32c_soft(0, <const uint8_t *> PyBytes_AS_STRING(data), len(data))
    return zl_crc32c(0, PyBytes_AS_STRING(data), len(data))
