# distutils: libraries = crypto
# distutils: define_macros = OPENSSL_SUPPRESS_DEPRECATED=1
"""Repositories of simulated accounts: writes, commits, and the #commit and #sync frames that announce them.

Strategy: `Repo.commit` makes the writes in the tree, encodes the commit and its blocks (D11), signs, and builds the
frame with its WebSocket head in one buffer. A commit with a defect is built the same way, spoilt at one place, and
its writes are then taken back, so that the next commit follows the last good one as if nothing had been sent.

Promises: the same arguments and random numbers give the same bytes; at most MAX_OPS writes; canonical DRISL.
Assumes: one thread uses this module (the buffers below are shared by all repositories).
"""

from libc.string cimport memcpy, memset

from zlay.sim.messages import tid

from zlay.sim.buffer cimport (
    CBOR_FALSE,
    CBOR_NULL,
    DIGEST_SIZE,
    MAJOR_ARRAY,
    MAJOR_BYTES,
    MAJOR_MAP,
    MAJOR_UINT,
    Buf,
    put_block_head,
    put_byte,
    put_bytes,
    put_head,
    put_link,
    put_text,
    put_uvarint,
)
from zlay.sim.keys cimport SIGNATURE_SIZE, SigningKey, negate_s
from zlay.sim.messages cimport (
    CLOCK_ID_BITS,
    TID_SIZE,
    message_begin,
    message_end,
    put_bytes_text,
    put_seq,
    put_tid,
    tid_text,
)
from zlay.sim.records cimport make_record, pick_collection
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
    tree_put_blocks,
    tree_put_records,
    tree_remove,
    tree_replace,
)

cdef enum:
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

# Shared by all repositories; the one thread of the simulation uses them, one commit at a time.
cdef Buf scratch
cdef Buf car
cdef Buf frame
memset(&scratch, 0, sizeof(Buf))
memset(&car, 0, sizeof(Buf))
memset(&frame, 0, sizeof(Buf))


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
        cdef uint8_t old_signature[64]
        cdef uint64_t old_rev = self.rev
        memcpy(old_data, self.data, DIGEST_SIZE)
        memcpy(old_head, self.head, DIGEST_SIZE)
        memcpy(old_signature, self.signature, SIGNATURE_SIZE)
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
            memcpy(self.signature, old_signature, SIGNATURE_SIZE)
            self.rev = old_rev
        return built

    def sync(self, uint64_t seq, bytes time not None):
        """The WebSocket frame of a #sync that says the present head (B4)."""
        self._build_car_of_commit()
        message_begin(&frame, b"#sync", 5, 5)
        put_text(&frame, b"did", 3)
        put_bytes_text(&frame, self.did_bytes)
        put_text(&frame, b"rev", 3)
        put_tid(&frame, self.rev)
        put_seq(&frame, seq)
        put_text(&frame, b"time", 4)
        put_bytes_text(&frame, time)
        put_text(&frame, b"blocks", 6)
        put_head(&frame, MAJOR_BYTES, car.n)
        put_bytes(&frame, car.p, car.n)
        return message_end(&frame)

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
        cdef int _i
        for _i in range(creates):
            self._create(rng, rev, time, text_n)
        for _i in range(updates):
            self._change(rng, rev, time, text_n, False)
        for _i in range(deletes):
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
            make_record(&scratch, rng, collection, collection_n, rev, time, len(time), text_n)
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
            make_record(&scratch, rng, collection, collection_n, rev, time, len(time), text_n)
            op.new = leaf_new(key, collection_n + 1 + TID_SIZE, scratch.p, scratch.n)
        op.old = NULL
        op.new.mark = USED
        tree_insert(&self.tree, op.new)
        self.n_ops += 1

    cdef _change(self, Rng rng, uint64_t rev, bytes time, size_t text_n, bint delete):
        """Updates or deletes a record that this commit has not touched; nothing where there is none."""
        cdef int _tries
        cdef size_t i
        cdef Leaf *leaf = NULL
        cdef Op *op = &self.ops[self.n_ops]
        if self.n_ops == MAX_OPS or self.tree.n == 0:
            return
        for _tries in range(8):
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
            make_record(&scratch, rng, <const char *> leaf.data, i, rev, time, len(time), text_n)
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
        message_begin(&frame, b"#commit", 7, 12 if has_prev_data else 11)
        put_text(&frame, b"ops", 3)
        put_head(&frame, MAJOR_ARRAY, self.n_ops - first)
        for i in range(first, self.n_ops):
            self._put_op(&self.ops[i], spoil if i == first else SPOIL_NOTHING)
        put_text(&frame, b"rev", 3)
        put_tid(&frame, self.rev)
        put_seq(&frame, seq)
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
        return message_end(&frame)

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
