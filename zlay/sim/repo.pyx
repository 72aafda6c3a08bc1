# distutils: libraries = crypto
# distutils: define_macros = OPENSSL_SUPPRESS_DEPRECATED=1
"""Repositories of simulated accounts: writes, commits, and the #commit, #sync, #identity and #account frames of them.

Strategy: `Repo.commit` makes the writes in the tree, encodes the commit and its blocks (D11), signs, and builds the
frame with its WebSocket head in one buffer. A commit with a defect is built the same way, spoilt at one place, and
its writes are then taken back, so that the next commit follows the last good one as if nothing had been sent.

Promises: the same arguments and random numbers give the same bytes; at most MAX_OPS writes; canonical DRISL.
Assumes: one thread uses this module (the buffers below are shared by all repositories).
"""

from libc.string cimport memcpy, memset

from zlay.sim.buffer cimport (
    CBOR_FALSE,
    CBOR_NULL,
    CBOR_TRUE,
    DIGEST_SIZE,
    MAJOR_ARRAY,
    MAJOR_BYTES,
    MAJOR_MAP,
    MAJOR_TEXT,
    MAJOR_UINT,
    Buf,
    buf_reserve,
    put_block_head,
    put_byte,
    put_bytes,
    put_head,
    put_link,
    put_text,
    put_uvarint,
    put_ws_head,
)
from zlay.sim.keys cimport SIGNATURE_SIZE, SigningKey, negate_s
from zlay.sim.rng cimport Rng
from zlay.sim.sha cimport sha256
from zlay.sim.tree cimport (
    Leaf,
    Node,
    leaf_free,
    leaf_new,
    leaf_record,
    tree_find,
    tree_free,
    tree_hash,
    tree_insert,
    tree_mark_proof,
    tree_node_of,
    tree_put_blocks,
    tree_put_records,
    tree_remove,
    tree_replace,
)

cdef enum:
    TID_SIZE = 13
    CLOCK_ID_BITS = 10
    HEAD_ROOM = 16           # before the message, for the WebSocket head
    USED = 1                 # Leaf.mark: this commit already writes the record

# What may be spoilt in a commit; the names, and what a relay must say to each, stand in faults.py.
cpdef enum Spoil:
    SPOIL_NOTHING
    SPOIL_SIGNATURE          # one bit of r
    SPOIL_OTHER_KEY          # signed by a key that is not the account's
    SPOIL_HIGH_S
    SPOIL_PREV_DATA          # prevData is another root
    SPOIL_OP_LEFT_OUT        # the tree changed by more than the ops say
    SPOIL_OP_VALUE           # an op names another record than the tree holds
    SPOIL_MISSING_RECORD
    SPOIL_MISSING_NODE       # the root node's block is left out
    SPOIL_BLOCK_HASH         # a record block with one bit changed
    SPOIL_NO_PREV_DATA
    SPOIL_OP_SHAPE           # a create that has prev

TID_ALPHABET = b"234567abcdefghijklmnopqrstuvwxyz"

# Shared by all repositories; the one thread of the simulation uses them, one commit at a time.
cdef Buf scratch
cdef Buf car
cdef Buf frame
cdef uint8_t prefix[64]
cdef size_t seq_at = 0
memset(&scratch, 0, sizeof(Buf))
memset(&car, 0, sizeof(Buf))
memset(&frame, 0, sizeof(Buf))


# --- TIDs and heads ---


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


cdef void put_bytes_text(Buf *b, bytes text):
    put_text(b, <const char *> text, len(text))


cdef void message_begin(const char *type_name, size_t type_n, int fields) noexcept nogil:
    """Starts a frame in `frame`: room for the WebSocket head, the header (A4), the payload's map head."""
    frame.n = 0
    buf_reserve(&frame, HEAD_ROOM)
    frame.n = HEAD_ROOM
    put_head(&frame, MAJOR_MAP, 2)
    put_text(&frame, b"t", 1)
    put_text(&frame, type_name, type_n)
    put_text(&frame, b"op", 2)
    put_head(&frame, MAJOR_UINT, 1)
    put_head(&frame, MAJOR_MAP, fields)


cdef void put_seq(uint64_t seq) noexcept nogil:
    """The field seq; notes where its value stands."""
    global seq_at
    put_text(&frame, b"seq", 3)
    seq_at = frame.n - HEAD_ROOM
    put_head(&frame, MAJOR_UINT, seq)


def seq_offset():
    """Where the value of seq begins in the last frame that was made, counted from the message's first byte."""
    return seq_at


cdef bytes message_end():
    """The WebSocket frame made of what stands in `frame`."""
    cdef Buf head
    cdef size_t n = frame.n - HEAD_ROOM
    head.p = prefix
    head.n = 0
    head.cap = sizeof(prefix)
    put_ws_head(&head, n)
    memcpy(frame.p + HEAD_ROOM - head.n, prefix, head.n)
    return (<const char *> frame.p)[HEAD_ROOM - head.n:frame.n]


def ws_frame(bytes message not None):
    """A message as one unmasked binary WebSocket frame."""
    cdef Buf head
    head.p = prefix
    head.n = 0
    head.cap = sizeof(prefix)
    put_ws_head(&head, len(message))
    return (<const char *> prefix)[:head.n] + message


# --- records ---


cdef void put_random_text(Rng rng, size_t n) noexcept nogil:
    """n bytes of words into `scratch`, as a CBOR text."""
    cdef const char *letters = b"etaoinshrdlucmfwypvbgkjqxz etao "
    cdef uint64_t bits = 0
    cdef size_t i
    put_head(&scratch, MAJOR_TEXT, n)
    buf_reserve(&scratch, n)
    for i in range(n):
        if i % 12 == 0:
            bits = rng.next64()
        scratch.p[scratch.n + i] = letters[bits & 31]
        bits >>= 5
    scratch.n += n


cdef void put_random_base32(Rng rng, const char *start, size_t start_n, size_t n) noexcept nogil:
    """A CBOR text of `start` and n characters of base32: a CID or DID inside a record."""
    cdef const char *alphabet = b"abcdefghijklmnopqrstuvwxyz234567"
    cdef uint64_t bits = 0
    cdef size_t i
    put_head(&scratch, MAJOR_TEXT, start_n + n)
    put_bytes(&scratch, start, start_n)
    buf_reserve(&scratch, n)
    for i in range(n):
        if i % 12 == 0:
            bits = rng.next64()
        scratch.p[scratch.n + i] = alphabet[bits & 31]
        bits >>= 5
    scratch.n += n


cdef void put_subject(Rng rng, uint64_t value) noexcept nogil:
    """The strong reference of a like or repost."""
    cdef char uri[70]
    cdef char text[13]
    put_text(&scratch, b"subject", 7)
    put_head(&scratch, MAJOR_MAP, 2)
    put_text(&scratch, b"cid", 3)
    put_random_base32(rng, b"bafyrei", 7, 52)
    put_text(&scratch, b"uri", 3)
    tid_text(value, text)
    put_head(&scratch, MAJOR_TEXT, 5 + 32 + 20 + TID_SIZE)
    put_bytes(&scratch, b"at://did:plc:", 13)
    buf_reserve(&scratch, 24)
    memcpy(scratch.p + scratch.n, b"aaaaaaaaaaaaaaaaaaaaaaaa", 24)
    scratch.n += 24
    put_bytes(&scratch, b"/app.bsky.feed.post/", 20)
    put_bytes(&scratch, text, TID_SIZE)


cdef void make_record(Rng rng, const char *collection, size_t collection_n, uint64_t value, const char *time,
                      size_t time_n, size_t text_n) noexcept nogil:
    """A record block for the collection into `scratch`; text_n 0 = a usual length."""
    cdef char kind = collection[9] if collection_n > 9 else 0
    scratch.n = 0
    if collection_n == 18 and kind == c'f' and collection[14] == c'p':      # app.bsky.feed.post
        put_head(&scratch, MAJOR_MAP, 4)
        put_text(&scratch, b"text", 4)
        put_random_text(rng, text_n if text_n else 20 + rng.next_below(200))
        put_type(collection, collection_n)
        put_text(&scratch, b"langs", 5)
        put_head(&scratch, MAJOR_ARRAY, 1)
        put_text(&scratch, b"en", 2)
    elif collection_n == 22:                                               # app.bsky.actor.profile
        put_head(&scratch, MAJOR_MAP, 3)
        put_type(collection, collection_n)
        put_text(&scratch, b"createdAt", 9)
        put_text(&scratch, time, time_n)
        put_text(&scratch, b"description", 11)
        put_random_text(rng, text_n if text_n else 20 + rng.next_below(100))
        return
    elif kind == c'g':                                                     # app.bsky.graph.follow
        put_head(&scratch, MAJOR_MAP, 3)
        put_type(collection, collection_n)
        put_text(&scratch, b"subject", 7)
        put_random_base32(rng, b"did:plc:", 8, 24)
    else:                                                                  # app.bsky.feed.like, .repost
        put_head(&scratch, MAJOR_MAP, 3)
        put_type(collection, collection_n)
        put_subject(rng, value)
    put_text(&scratch, b"createdAt", 9)
    put_text(&scratch, time, time_n)


cdef void put_type(const char *collection, size_t n) noexcept nogil:
    put_text(&scratch, b"$type", 5)
    put_text(&scratch, collection, n)


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


# --- the repository ---


cdef class Repo:
    """One account's repository (v3). Starts empty and without a commit. One thread."""

    def __cinit__(self, str did not None, SigningKey key not None, uint64_t clock_id):
        self.did = did
        self.did_bytes = did.encode("ascii")
        self.key = key
        self.clock_id = clock_id & ((1 << CLOCK_ID_BITS) - 1)

    def __dealloc__(self):
        tree_free(&self.tree)

    @property
    def size(self):
        """Number of records."""
        return self.tree.n

    @property
    def rev_text(self):
        """The last commit's rev; None before the first."""
        return tid(self.rev) if self.rev else None

    @property
    def head_digest(self):
        """SHA-256 of the last commit block."""
        return bytes(self.head[:32])

    @property
    def data_digest(self):
        """SHA-256 of the root block of the tree."""
        return bytes(self.data[:32])

    def next_rev(self, uint64_t now_us):
        """The rev that a commit made at this time would have: above the last one's."""
        cdef uint64_t value = now_us << CLOCK_ID_BITS | self.clock_id
        if value <= self.rev:
            value = self.rev + (1 << CLOCK_ID_BITS)
        return value

    def commit(self, Rng rng not None, uint64_t seq, uint64_t rev, bytes time not None, int creates, int updates,
               int deletes, int spoil=SPOIL_NOTHING, bint keep=True, size_t text_n=0, SigningKey other_key=None):
        """Makes the writes and gives the WebSocket frame of the #commit.

        `rev` is normally `next_rev(now)`; `time` the message's time field. With `keep` false the writes are taken
        back afterwards and the repository is as it was. Spoiling a record or value needs a create.
        """
        cdef uint8_t old_data[32]
        cdef uint8_t old_head[32]
        cdef uint64_t old_rev = self.rev
        memcpy(old_data, self.data, DIGEST_SIZE)
        memcpy(old_head, self.head, DIGEST_SIZE)
        self.n_ops = 0
        self._write(rng, rev, time, creates, updates, deletes, text_n)
        self.mark += 1
        tree_hash(&self.tree, &scratch, self.mark, self.data)
        self.rev = rev
        self._sign(spoil, other_key)
        self._build_car(spoil)
        built = self._build_commit(seq, old_rev, old_data, time, spoil)
        if keep:
            self._forget_old()
        else:
            self._take_back()
            memcpy(self.data, old_data, DIGEST_SIZE)
            memcpy(self.head, old_head, DIGEST_SIZE)
            self.rev = old_rev
        return built

    def sync(self, uint64_t seq, bytes time not None):
        """The WebSocket frame of a #sync that says the present head (B4)."""
        self._build_car_of_commit()
        message_begin(b"#sync", 5, 5)
        put_text(&frame, b"did", 3)
        put_bytes_text(&frame, self.did_bytes)
        put_text(&frame, b"rev", 3)
        put_tid(&frame, self.rev)
        put_seq(seq)
        put_text(&frame, b"time", 4)
        put_bytes_text(&frame, time)
        put_text(&frame, b"blocks", 6)
        put_head(&frame, MAJOR_BYTES, car.n)
        put_bytes(&frame, car.p, car.n)
        return message_end()

    def resign(self, uint64_t rev):
        """A commit without a frame: same tree, this rev, the present key (an import, or a restored backup)."""
        self.n_ops = 0
        self.mark += 1
        tree_hash(&self.tree, &scratch, self.mark, self.data)
        self.rev = rev
        self._sign(SPOIL_NOTHING, None)

    def car(self):
        """The whole repository as a CAR: commit, nodes, records."""
        self._build_car_of_commit()
        tree_put_blocks(&self.tree, &car, &scratch, 0, NULL)
        tree_put_records(&self.tree, &car)
        return bytes(car.p[:car.n])

    # --- parts of a commit ---

    cdef _write(self, Rng rng, uint64_t rev, bytes time, int creates, int updates, int deletes, size_t text_n):
        cdef int i
        for i in range(creates):
            self._create(rng, rev, time, text_n)
        for i in range(updates):
            self._change(rng, rev, time, text_n, False)
        for i in range(deletes):
            self._change(rng, rev, time, text_n, True)

    cdef _create(self, Rng rng, uint64_t rev, bytes time, size_t text_n):
        cdef size_t collection_n
        cdef const char *collection
        cdef uint8_t key[64]
        cdef uint64_t value = rev
        cdef Op *op = &self.ops[self.n_ops]
        if self.n_ops == MAX_OPS:
            return
        if self.tree.n == 0:
            collection = b"app.bsky.actor.profile"
            collection_n = 22
            memcpy(key, b"app.bsky.actor.profile/self", 27)
            make_record(rng, collection, collection_n, rev, time, len(time), text_n)
            op.new = leaf_new(key, 27, scratch.p, scratch.n)
        else:
            collection = pick_collection(rng, text_n > 0, &collection_n)
            memcpy(key, collection, collection_n)
            key[collection_n] = c'/'
            while True:  # several writes of one commit, or of one microsecond, need keys of their own
                tid_text(value, <char *> key + collection_n + 1)
                if tree_find(&self.tree, key, collection_n + 1 + TID_SIZE) == NULL:
                    break
                value += 1 << CLOCK_ID_BITS
            make_record(rng, collection, collection_n, rev, time, len(time), text_n)
            op.new = leaf_new(key, collection_n + 1 + TID_SIZE, scratch.p, scratch.n)
        op.old = NULL
        op.new.mark = USED
        tree_insert(&self.tree, op.new)
        self.n_ops += 1

    cdef _change(self, Rng rng, uint64_t rev, bytes time, size_t text_n, bint delete):
        """Updates or deletes a record that this commit has not touched; nothing where there is none."""
        cdef int tries
        cdef size_t i
        cdef Leaf *leaf = NULL
        cdef Op *op = &self.ops[self.n_ops]
        if self.n_ops == MAX_OPS or self.tree.n == 0:
            return
        for tries in range(8):
            leaf = self.tree.leaves[rng.next_below(self.tree.n)]
            if leaf.mark != USED:
                break
            leaf = NULL
        if leaf == NULL:
            return
        op.old = leaf
        op.new = NULL
        if delete:
            tree_remove(&self.tree, leaf)
        else:
            i = 0
            while leaf.data[i] != c'/':
                i += 1
            make_record(rng, <const char *> leaf.data, i, rev, time, len(time), text_n)
            op.new = leaf_new(leaf.data, leaf.key_n, scratch.p, scratch.n)
            op.new.mark = USED
            tree_replace(&self.tree, leaf, op.new)
        self.n_ops += 1

    cdef _forget_old(self):
        cdef int i
        for i in range(self.n_ops):
            if self.ops[i].old != NULL:
                leaf_free(self.ops[i].old)
            if self.ops[i].new != NULL:
                self.ops[i].new.mark = 0
        self.n_ops = 0

    cdef _take_back(self):
        cdef int i
        cdef Op *op
        cdef uint8_t digest[32]
        for i in range(self.n_ops - 1, -1, -1):
            op = &self.ops[i]
            if op.old == NULL:
                tree_remove(&self.tree, op.new)
            elif op.new == NULL:
                tree_insert(&self.tree, op.old)
            else:
                tree_replace(&self.tree, op.new, op.old)
            if op.new != NULL:
                leaf_free(op.new)
        self.n_ops = 0
        self.mark += 1
        tree_hash(&self.tree, &scratch, self.mark, digest)

    cdef _put_commit(self, bint signed):
        """The commit block into `scratch` (C2), with or without its signature."""
        scratch.n = 0
        put_head(&scratch, MAJOR_MAP, 6 if signed else 5)
        put_text(&scratch, b"did", 3)
        put_bytes_text(&scratch, self.did_bytes)
        put_text(&scratch, b"rev", 3)
        put_tid(&scratch, self.rev)
        if signed:
            put_text(&scratch, b"sig", 3)
            put_head(&scratch, MAJOR_BYTES, SIGNATURE_SIZE)
            put_bytes(&scratch, self.signature, SIGNATURE_SIZE)
        put_text(&scratch, b"data", 4)
        put_link(&scratch, self.data)
        put_text(&scratch, b"prev", 4)
        put_byte(&scratch, CBOR_NULL)
        put_text(&scratch, b"version", 7)
        put_head(&scratch, MAJOR_UINT, 3)

    cdef _sign(self, int spoil, SigningKey other_key):
        """Signs the commit of the present tree and rev; sets `signature` and `head`."""
        cdef uint8_t digest[32]
        cdef SigningKey key = self.key
        if spoil == SPOIL_OTHER_KEY and other_key is not None:
            key = other_key
        self._put_commit(False)
        sha256(scratch.p, scratch.n, digest)
        key.sign_digest(digest, self.signature)
        if spoil == SPOIL_SIGNATURE:
            self.signature[31] ^= 1
        elif spoil == SPOIL_HIGH_S:
            negate_s(self.signature, key.is_p256)
        self._put_commit(True)
        sha256(scratch.p, scratch.n, self.head)

    cdef _build_car_of_commit(self):
        """CAR header and commit block into `car` (C10)."""
        self._put_commit(True)
        car.n = 0
        put_uvarint(&car, 58)
        put_head(&car, MAJOR_MAP, 2)
        put_text(&car, b"roots", 5)
        put_head(&car, MAJOR_ARRAY, 1)
        put_link(&car, self.head)
        put_text(&car, b"version", 7)
        put_head(&car, MAJOR_UINT, 1)
        put_block_head(&car, self.head, scratch.n)
        put_bytes(&car, scratch.p, scratch.n)

    cdef _build_car(self, int spoil):
        """The commit's CAR: commit, new nodes and the nodes that prove the ops (D11), written records."""
        cdef int i
        cdef Leaf *leaf
        cdef Node *leave_out = NULL
        self._build_car_of_commit()
        for i in range(self.n_ops):
            leaf = self.ops[i].new if self.ops[i].new != NULL else self.ops[i].old
            tree_mark_proof(&self.tree, leaf.data, leaf.key_n, self.mark)
        if self.tree.root != NULL:
            self.tree.root.mark = self.mark
            if spoil == SPOIL_MISSING_NODE:
                leave_out = self.tree.root
        tree_put_blocks(&self.tree, &car, &scratch, self.mark, leave_out)
        for i in range(self.n_ops):
            leaf = self.ops[i].new
            if leaf == NULL or (spoil == SPOIL_MISSING_RECORD and i == 0):
                continue
            put_block_head(&car, leaf.digest, leaf.record_n)
            put_bytes(&car, leaf_record(leaf), leaf.record_n)
            if spoil == SPOIL_BLOCK_HASH and i == 0:
                car.p[car.n - 1] ^= 1

    cdef bytes _build_commit(self, uint64_t seq, uint64_t since, const uint8_t *prev_data, bytes time, int spoil):
        cdef bint has_prev_data = since != 0 and spoil != SPOIL_NO_PREV_DATA
        cdef int first = 1 if spoil == SPOIL_OP_LEFT_OUT and self.n_ops > 0 else 0
        cdef int i
        cdef const uint8_t *shown_data = prev_data
        if spoil == SPOIL_PREV_DATA:
            shown_data = self.head
        message_begin(b"#commit", 7, 12 if has_prev_data else 11)
        put_text(&frame, b"ops", 3)
        put_head(&frame, MAJOR_ARRAY, self.n_ops - first)
        for i in range(first, self.n_ops):
            self._put_op(&self.ops[i], spoil if i == first else SPOIL_NOTHING)
        put_text(&frame, b"rev", 3)
        put_tid(&frame, self.rev)
        put_seq(seq)
        put_text(&frame, b"repo", 4)
        put_bytes_text(&frame, self.did_bytes)
        put_text(&frame, b"time", 4)
        put_bytes_text(&frame, time)
        put_text(&frame, b"blobs", 5)
        put_head(&frame, MAJOR_ARRAY, 0)
        put_text(&frame, b"since", 5)
        if since:
            put_tid(&frame, since)
        else:
            put_byte(&frame, CBOR_NULL)
        put_text(&frame, b"blocks", 6)
        put_head(&frame, MAJOR_BYTES, car.n)
        put_bytes(&frame, car.p, car.n)
        put_text(&frame, b"commit", 6)
        put_link(&frame, self.head)
        put_text(&frame, b"rebase", 6)
        put_byte(&frame, CBOR_FALSE)
        put_text(&frame, b"tooBig", 6)
        put_byte(&frame, CBOR_FALSE)
        if has_prev_data:
            put_text(&frame, b"prevData", 8)
            put_link(&frame, shown_data)
        return message_end()

    cdef _put_op(self, const Op *op, int spoil):
        """One repoOp (B3)."""
        cdef const Leaf *leaf = op.new if op.new != NULL else op.old
        cdef bint has_prev = op.old != NULL or spoil == SPOIL_OP_SHAPE
        put_head(&frame, MAJOR_MAP, 4 if has_prev else 3)
        put_text(&frame, b"cid", 3)
        if op.new == NULL:
            put_byte(&frame, CBOR_NULL)
        else:
            put_link(&frame, &self.head[0] if spoil == SPOIL_OP_VALUE else &op.new.digest[0])
        put_text(&frame, b"path", 4)
        put_text(&frame, <const char *> leaf.data, leaf.key_n)
        if has_prev:
            put_text(&frame, b"prev", 4)
            put_link(&frame, &op.old.digest[0] if op.old != NULL else &self.head[0])
        put_text(&frame, b"action", 6)
        if op.old == NULL:
            put_text(&frame, b"create", 6)
        elif op.new == NULL:
            put_text(&frame, b"delete", 6)
        else:
            put_text(&frame, b"update", 6)


# --- messages without a repository ---


def identity_frame(uint64_t seq, bytes did not None, bytes time not None, bytes handle):
    """The WebSocket frame of an #identity (B5); handle None = left out."""
    message_begin(b"#identity", 9, 4 if handle is not None else 3)
    put_text(&frame, b"did", 3)
    put_bytes_text(&frame, did)
    put_seq(seq)
    put_text(&frame, b"time", 4)
    put_bytes_text(&frame, time)
    if handle is not None:
        put_text(&frame, b"handle", 6)
        put_bytes_text(&frame, handle)
    return message_end()


def account_frame(uint64_t seq, bytes did not None, bytes time not None, bint active, bytes status):
    """The WebSocket frame of an #account (B6); status None = left out."""
    message_begin(b"#account", 8, 5 if status is not None else 4)
    put_text(&frame, b"did", 3)
    put_bytes_text(&frame, did)
    put_seq(seq)
    put_text(&frame, b"time", 4)
    put_bytes_text(&frame, time)
    put_text(&frame, b"active", 6)
    put_byte(&frame, CBOR_TRUE if active else CBOR_FALSE)
    if status is not None:
        put_text(&frame, b"status", 6)
        put_bytes_text(&frame, status)
    return message_end()


def info_frame(bytes name not None, bytes message not None):
    """The WebSocket frame of an #info (B7)."""
    message_begin(b"#info", 5, 2)
    put_text(&frame, b"name", 4)
    put_bytes_text(&frame, name)
    put_text(&frame, b"message", 7)
    put_bytes_text(&frame, message)
    return message_end()


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
    return message_end()
