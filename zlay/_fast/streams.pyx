# distutils: libraries = crypto secp256k1
"""A stream of chained commits judged with a warm cache, and on the same bytes the work that nobody can do without.

For benchmarks: the judging is the very code of workers (`judge`), on an account table, a scratch and a key cache as
each worker has them; the bound calls the curve libraries directly, with everything parsed beforehand. Both on the
calling thread, detached from the interpreter.
A Stream belongs to one thread at a time; several may run at once, like workers, since they share nothing.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_THREAD_CPUTIME_ID, clock_gettime, timespec

from zlay._fast.accounts cimport (
    A_KNOWN, A_LOADED, ID_OK, Account, Table, account_find, account_insert, account_set_key, table_free, table_init
)
from zlay._fast.commit cimport Commit, commit_open
from zlay._fast.crypto cimport (
    DIGEST_SIZE, KEY_K256, KEY_P256, KeyCache, SigningKey, key_cache_free, key_cache_init, key_parse, sha256
)
from zlay._fast.host cimport Host
from zlay._fast.includes.atomics cimport zl_realtime_us
from zlay._fast.includes.openssl cimport (
    BN_bin2bn, ECDSA_do_verify, ECDSA_SIG, ECDSA_SIG_free, ECDSA_SIG_new, ECDSA_SIG_set0, EC_KEY, EC_KEY_get0_group,
    EC_KEY_get0_public_key, EC_POINT, EC_POINT_oct2point
)
from zlay._fast.includes.secp256k1 cimport (
    secp256k1_context_static, secp256k1_ecdsa_signature, secp256k1_ecdsa_signature_parse_compact,
    secp256k1_ecdsa_verify, secp256k1_pubkey
)
from zlay._fast.judge cimport Judgement, judge_event, judge_message
from zlay._fast.log cimport did_hash
from zlay._fast.mem cimport MEM_MISC, zl_calloc, zl_free
from zlay._fast.message cimport DIGEST_BYTES, Message, message_decode
from zlay._fast.pool cimport Frame
from zlay._fast.scratch cimport Scratch, scratch_free, scratch_init, scratch_reset
from zlay._fast.verdicts cimport K_COMMIT, R_OK, R_PREV_DATA_MISSING

from zlay._fast import verdicts

cdef enum:
    SCRATCH_BYTES = 48 * 1024 * 1024
    HOST_ID = 1
    MAX_POINT_BYTES = 65
    SCALAR_BYTES = 32
    DIGEST_AT = 4                 # where the digest stands in a CID
    SECOND_US = 1000000

cdef struct Author:               # one account: its key in every form that either side wants
    Account *account
    SigningKey key
    KeyCache loaded               # P-256: an OpenSSL key that holds this point, for the bound
    uint8_t point[MAX_POINT_BYTES]
    uint32_t point_n
    uint64_t rev                  # the state that the account's first commit of the stream follows from
    uint8_t data[DIGEST_BYTES]

cdef struct Item:
    Frame frame
    Author *author
    uint8_t digest[DIGEST_SIZE]   # what is signed
    secp256k1_ecdsa_signature k256
    ECDSA_SIG *p256


cdef inline double _cpu_s() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t)
    return <double>t.tv_sec + <double>t.tv_nsec * 1e-9


cdef int _judge(Table *table, Scratch *s, KeyCache *keys, Item *item, bint parse_key, uint64_t now_us) noexcept nogil:
    """One commit as a worker judges it, and what the account takes from it. A Reason."""
    cdef Judgement j
    cdef Frame *f = &item.frame
    cdef Account *a
    cdef SigningKey key
    cdef int reason
    a = account_find(table, f.did_hash, f.data + f.did_off, f.did_n)
    if parse_key:
        key_parse(item.author.key.type, item.author.point, item.author.point_n, &key)
        account_set_key(table, a, &key)
    scratch_reset(s)
    memset(&j, 0, sizeof(j))
    reason = judge_message(s, f, &j)
    if reason != R_OK:
        return reason
    j.account = a
    reason = judge_event(table, s, keys, f, now_us, &j)
    if reason != R_OK:
        return reason
    if j.chain_break:
        return R_PREV_DATA_MISSING    # not the stream that was promised
    a.rev = j.message.rev
    memcpy(a.data, j.commit.data + DIGEST_AT, DIGEST_BYTES)
    memcpy(a.head, j.commit.cid + DIGEST_AT, DIGEST_BYTES)
    return R_OK


cdef int _load(KeyCache *keys, const Author *author) noexcept nogil:
    """Puts the point as it stands in DID documents into an OpenSSL key, in place: nothing is cheaper. 1 = done."""
    cdef EC_KEY *key = <EC_KEY *>keys.key
    return EC_POINT_oct2point(
        EC_KEY_get0_group(key), <EC_POINT *>EC_KEY_get0_public_key(key), author.point, author.point_n, NULL
    )


cdef bint _least(Item *item, KeyCache *keys, bint parse_key) noexcept nogil:
    """The bound: SHA-256 of the frame's bytes and one verification by the library."""
    cdef uint8_t digest[DIGEST_SIZE]
    cdef SigningKey key
    cdef Author *author = item.author
    cdef KeyCache *use = &author.loaded
    sha256(item.frame.data, item.frame.n, digest)
    if author.key.type == KEY_K256:
        if not parse_key:
            return secp256k1_ecdsa_verify(
                secp256k1_context_static, &item.k256, item.digest, <const secp256k1_pubkey *>author.key.bytes
            ) == 1
        key_parse(KEY_K256, author.point, author.point_n, &key)
        return secp256k1_ecdsa_verify(
            secp256k1_context_static, &item.k256, item.digest, <const secp256k1_pubkey *>key.bytes
        ) == 1
    if parse_key:
        use = keys
        if _load(use, author) != 1:
            return False
    return ECDSA_do_verify(item.digest, DIGEST_SIZE, item.p256, <EC_KEY *>use.key) == 1


cdef class Stream:
    """Commits in order, each account's chained, and their accounts' keys. One thread at a time."""

    cdef Table table
    cdef Scratch scratch
    cdef KeyCache keys
    cdef Host *host               # owned, as are items, authors and their parts
    cdef Item *items
    cdef Author *authors
    cdef uint32_t n
    cdef uint32_t n_authors
    cdef list held                # the frames' bytes: items point into them

    def __cinit__(self, frames: list[bytes], keys: dict[bytes, tuple[int, bytes]]):
        """`keys`: (key type, point) by DID. Frames that are no #commit are left out.

        ValueError: nothing left, a frame that is refused (the label), an account without a usable key. MemoryError.
        """
        self.held = [bytes(frame) for frame in frames]
        self.items = <Item *>zl_calloc(MEM_MISC, (len(frames) + 1) * sizeof(Item))
        self.authors = <Author *>zl_calloc(MEM_MISC, (len(keys) + 1) * sizeof(Author))
        self.host = <Host *>zl_calloc(MEM_MISC, sizeof(Host))
        if self.items is NULL or self.authors is NULL or self.host is NULL:
            raise MemoryError
        if (
            scratch_init(&self.scratch, SCRATCH_BYTES) != 0
            or key_cache_init(&self.keys) != 0
            or table_init(&self.table, <uint32_t>len(keys) + 1, <uint32_t>len(keys) + 1) != 0
        ):
            raise MemoryError
        self.host.id = HOST_ID
        for frame in self.held:
            self._add(frame, keys)
        if self.n == 0:
            raise ValueError("no commits")

    cdef _add(self, bytes frame, dict keys):
        cdef Message m
        cdef Commit c
        cdef Item *item = &self.items[self.n]
        cdef int reason
        scratch_reset(&self.scratch)
        reason = message_decode(&self.scratch, frame, <uint32_t>len(frame), &m)
        if reason == R_OK and m.kind != K_COMMIT:
            return
        if reason == R_OK:
            reason = commit_open(&self.scratch, &m, &c)
        if reason != R_OK:
            raise ValueError(verdicts.REASONS[reason].label)
        item.frame.data = <uint8_t *><const uint8_t *>frame
        item.frame.n = <uint32_t>len(frame)
        item.frame.host = self.host
        item.frame.did_off = <uint32_t>(m.did.p - item.frame.data)
        item.frame.did_n = m.did.n
        item.frame.upstream_seq = m.seq
        item.frame.did_hash = did_hash(m.did.p, m.did.n)
        item.frame.recv_us = zl_realtime_us()
        memcpy(item.digest, c.digest, DIGEST_SIZE)
        item.author = self._author(item, &m, keys)
        if item.author.key.type == KEY_K256:
            secp256k1_ecdsa_signature_parse_compact(secp256k1_context_static, &item.k256, c.sig)
        else:
            item.p256 = ECDSA_SIG_new()
            if item.p256 is NULL or ECDSA_SIG_set0(
                item.p256, BN_bin2bn(c.sig, SCALAR_BYTES, NULL), BN_bin2bn(c.sig + SCALAR_BYTES, SCALAR_BYTES, NULL)
            ) != 1:
                raise MemoryError
        self.n += 1

    cdef Author *_author(self, Item *item, const Message *m, dict keys) except NULL:
        """The frame's account; with its first commit it is made, at the state that this commit follows from."""
        cdef Frame *f = &item.frame
        cdef Account *a = account_find(&self.table, f.did_hash, m.did.p, m.did.n)
        cdef Author *author
        cdef uint32_t i
        if a is not NULL:
            for i in range(self.n_authors):
                if self.authors[i].account == a:
                    return &self.authors[i]
        did = (<const char *>m.did.p)[:m.did.n]
        if did not in keys:
            raise ValueError(f"no key of {did.decode()}")
        key_type, point = keys[did]
        author = &self.authors[self.n_authors]
        if key_parse(key_type, point, <uint32_t>len(point), &author.key) != 0 or key_cache_init(&author.loaded) != 0:
            raise ValueError(f"the key of {did.decode()} cannot be used")
        memcpy(author.point, <const uint8_t *><bytes>point, len(point))
        author.point_n = <uint32_t>len(point)
        if key_type == KEY_P256 and _load(&author.loaded, author) != 1:
            raise ValueError(f"the key of {did.decode()} cannot be used")
        author.rev = m.since
        if m.prev_data is not NULL:
            memcpy(author.data, m.prev_data + DIGEST_AT, DIGEST_BYTES)
        a = account_insert(&self.table, f.did_hash, m.did.p, m.did.n, 0)
        a.flags = A_LOADED | A_KNOWN
        a.host_id = HOST_ID
        a.identity = ID_OK
        a.identity_s = <uint32_t>(f.recv_us // SECOND_US)
        account_set_key(&self.table, a, &author.key)
        author.account = a
        self.n_authors += 1
        return author

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.n + 1 if self.items is not NULL else 0):
            ECDSA_SIG_free(self.items[i].p256)
        for i in range(self.n_authors if self.authors is not NULL else 0):
            key_cache_free(&self.authors[i].loaded)
        table_free(&self.table)
        key_cache_free(&self.keys)
        scratch_free(&self.scratch)
        zl_free(self.items)
        zl_free(self.authors)
        zl_free(self.host)

    @property
    def events(self) -> int:
        """Commits in one pass."""
        return self.n

    @property
    def accounts(self) -> int:
        """Accounts that have made them."""
        return self.n_authors

    @property
    def bytes(self) -> int:
        """Bytes of their frames."""
        return sum(self.items[i].frame.n for i in range(self.n))

    def judge(self, parse_keys: bool = False) -> float:
        """Processor seconds of one pass of judging. `parse_keys`: the key of an event is not in the cache.

        ValueError: an event that is not passed on; its text is the label.
        """
        cdef uint32_t i
        cdef int reason = R_OK
        cdef bint parse = parse_keys
        cdef double spent
        for i in range(self.n_authors):
            self.authors[i].account.rev = self.authors[i].rev
            memcpy(self.authors[i].account.data, self.authors[i].data, DIGEST_BYTES)
        with nogil:
            spent = _cpu_s()
            for i in range(self.n):
                reason = _judge(&self.table, &self.scratch, &self.keys, &self.items[i], parse, zl_realtime_us())
                if reason != R_OK:
                    break
            spent = _cpu_s() - spent
        if reason != R_OK:
            raise ValueError(verdicts.REASONS[reason].label)
        return spent

    def least(self, parse_keys: bool = False) -> float:
        """Processor seconds of one pass of the bound: SHA-256 of each frame, one verification by the curve's library.

        ValueError: a signature that does not hold.
        """
        cdef uint32_t i
        cdef bint good = True
        cdef bint parse = parse_keys
        cdef double spent
        with nogil:
            spent = _cpu_s()
            for i in range(self.n):
                good = _least(&self.items[i], &self.keys, parse) and good
            spent = _cpu_s() - spent
        if not good:
            raise ValueError("a signature that does not hold")
        return spent
