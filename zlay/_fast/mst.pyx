"""The partial tree of a commit: its ops held against it, then undone, back to the tree before (D2 to D10).

Promises: R_OK means that the ops stand in the tree, their records in the CAR, and that without them the tree is the one
that prevData names. Nodes are read only where an op or its undoing leads; each that is read obeys C9.
Assumes: paths of a message's ops are different from each other (message_decode), the CAR's blocks were hashed.
Work is bounded (node.pxd): no walk is longer than MAX_HEIGHT, entries moved are counted, one tree's memory is the
frame's scratch. The two recursive functions descend one level of height at a time.
Threads: none of its own; a worker's, on its own scratch.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memmove, memset

from zlay._fast.car cimport Car, CarBlock, car_find, car_parse
from zlay._fast.commit cimport Commit, Opened, opened_free, opened_init
from zlay._fast.drisl cimport CID_SIZE, record_check
from zlay._fast.mem cimport zl_copy_bytes, zl_free
from zlay._fast.message cimport MAX_OPS, OP_CREATE, OP_DELETE, OP_UPDATE, Message, RepoOp, Slice
from zlay._fast.node cimport (
    MAX_HEIGHT, MAX_TREE_WORK, SHARED_UNKNOWN, Entry, Node, Subtree, Tree, key_compare, key_height, node_is_empty,
    node_new, node_read, node_reserve, node_slot, node_write, tree_init, tree_take
)
from zlay._fast.scratch cimport Scratch, scratch_alloc, scratch_free, scratch_init
from zlay._fast.verdicts cimport (
    K_COMMIT, R_FIELD_TYPE, R_MST_INVERT, R_MST_MISSING_NODE, R_MST_OP, R_OK, R_PREV_DATA_MISMATCH,
    R_PREV_DATA_MISSING, R_RECORD_MISSING, R_WORK_LIMIT
)

from zlay._fast import verdicts

cdef enum:
    SCRATCH_BYTES = 64 * 1024 * 1024     # for the functions at the end only
    NOT_HASHED = -1                      # Path.height of a key that has not been hashed for it

cdef const uint8_t *EMPTY_ROOT = (      # CID of the empty tree's only node (C7)
    b"\x01\x71\x12\x20\x9d\xfe\xfe\x61\xdd\x76\xea\x3d\xca\xe5\x02\x38\x80\xb0\x83\x79"
    b"\xd5\x7a\xdf\x20\x48\x2d\x6f\xdb\xe2\x75\x92\x89\xf6\x47\x67\x7b"
)

cdef struct Path:                        # the way from the root to where a key is, or would be
    Subtree *steps[MAX_HEIGHT + 1]
    uint32_t slots[MAX_HEIGHT + 1]       # where the key is, or would be, among the entries of each step's node
    int last                             # index of the last step: at the key's height, or above it where no tree hangs
    bint found                           # the last step's node holds the key at its slot
    int height                           # the key's; NOT_HASHED = not known


# --- finding ---------------------------------------------------------------------------------------------------------

cdef inline uint32_t _position(const Node *node, const uint8_t *key, uint32_t n, bint *found) noexcept nogil:
    """Index of the first entry whose key is not below this one."""
    cdef uint32_t low = 0, high = node.n, middle
    cdef int order
    found[0] = False
    while low < high:
        middle = (low + high) // 2
        order = key_compare(node.entries[middle].key, node.entries[middle].key_n, key, n)
        if order < 0:
            low = middle + 1
        elif order > 0:
            high = middle
        else:
            found[0] = True
            return middle
    return low


cdef int _find(Tree *t, const RepoOp *op, Path *path) noexcept nogil:
    """Goes from the root to the height of the op's key (path.height), or as far as there are subtrees. A Reason.

    A key that is found has the height of its node, so it need not be hashed once more to know it.
    """
    cdef Subtree *s = t.root
    cdef Subtree *below
    cdef int i = 0, reason
    while True:
        path.steps[i] = s
        path.last = i
        path.slots[i] = _position(s.node, op.path.p, op.path.n, &path.found)
        if path.found:
            path.height = s.node.height
            return R_OK
        if s.node.height <= path.height:
            return R_OK
        below = node_slot(s.node, path.slots[i])[0]
        if below is NULL:
            return R_OK
        if below.node is NULL:
            reason = node_read(t, below, s.node.height - 1)
            if reason == R_MST_MISSING_NODE and path.height == NOT_HASHED:
                path.height = key_height(op.path.p, op.path.n)
                if s.node.height <= path.height:     # it would stand here
                    return R_OK
            if reason != R_OK:
                return reason
        s = below
        i += 1


cdef inline int _ready(Tree *t, Subtree *s, int height) noexcept nogil:
    """Has the subtree's node read for a change. A Reason: R_MST_INVERT where the CAR does not hold it (D8)."""
    cdef int reason = R_OK
    if s.node is NULL:
        reason = node_read(t, s, height)
    return R_MST_INVERT if reason == R_MST_MISSING_NODE else reason


cdef inline void _touch(Path *path) noexcept nogil:
    """Every node on the way has changed."""
    cdef int i
    for i in range(path.last + 1):
        path.steps[i].cid = NULL


# --- undoing a create ------------------------------------------------------------------------------------------------

cdef int _merge(Tree *t, Subtree *left, Subtree *right, Subtree **out, int height) noexcept nogil:
    """Joins two neighbours of one height, and what meets at their seam, level by level (D7). A Reason."""
    cdef Node *a
    cdef Node *b
    cdef uint32_t seam
    cdef int reason
    while left is not NULL and right is not NULL:
        reason = _ready(t, left, height)
        if reason == R_OK:
            reason = _ready(t, right, height)
        if reason != R_OK:
            return reason
        a = left.node
        b = right.node
        seam = a.n
        t.work += b.n
        reason = node_reserve(t, a, a.n + b.n)
        if reason != R_OK or t.work > MAX_TREE_WORK:
            return R_WORK_LIMIT
        memcpy(a.entries + seam, b.entries, b.n * sizeof(Entry))
        a.n += b.n
        if b.n > 0:
            a.entries[seam].shared = SHARED_UNKNOWN
        left.cid = NULL
        out[0] = left
        out = node_slot(a, seam)
        left = out[0]
        right = b.left
        height -= 1
    out[0] = left if left is not NULL else right
    return R_OK


cdef int _remove(Tree *t, Path *path) noexcept nogil:
    """Takes out the key that the path has found (D7). A Reason. The top is trimmed after all ops, not here."""
    cdef Node *node = path.steps[path.last].node
    cdef uint32_t at = path.slots[path.last]
    cdef Subtree *joined = NULL
    cdef int i, reason
    reason = _merge(t, node_slot(node, at)[0], node.entries[at].right, &joined, node.height - 1)
    if reason != R_OK:
        return reason
    node_slot(node, at)[0] = joined
    node.n -= 1
    t.work += node.n - at
    if t.work > MAX_TREE_WORK:
        return R_WORK_LIMIT
    memmove(node.entries + at, node.entries + at + 1, (node.n - at) * sizeof(Entry))
    if at < node.n:
        node.entries[at].shared = SHARED_UNKNOWN
    _touch(path)
    # A node that has nothing left goes, and so may the one above it; only the root may be empty.
    i = path.last
    while i > 0 and node_is_empty(path.steps[i].node):
        i -= 1
        node_slot(path.steps[i].node, path.slots[i])[0] = NULL
    return R_OK


# --- undoing a delete ------------------------------------------------------------------------------------------------

cdef int _split(
    Tree *t, Subtree *s, const RepoOp *op, int height, Subtree **left, Subtree **right
) noexcept nogil:
    """Parts a subtree into what lies before a key and what lies after; empty halves are NULL (D6). A Reason."""
    cdef Subtree *before = NULL
    cdef Subtree *after = NULL
    cdef Subtree *half
    cdef Node *node
    cdef uint32_t at
    cdef bint found
    cdef int reason
    left[0] = right[0] = NULL
    if s is NULL:
        return R_OK
    reason = _ready(t, s, height)
    if reason != R_OK:
        return reason
    node = s.node
    at = _position(node, op.path.p, op.path.n, &found)   # never found: a key stands at its own height only
    reason = _split(t, node_slot(node, at)[0], op, height - 1, &before, &after)
    if reason != R_OK:
        return reason
    if at == node.n and after is NULL:           # all of it lies before: nothing changes
        left[0] = s
        return R_OK
    if at == 0 and before is NULL:
        right[0] = s
        return R_OK
    t.work += node.n - at
    half = node_new(t, height, node.n - at + 1)
    if half is NULL or t.work > MAX_TREE_WORK:
        return R_WORK_LIMIT
    half.node.left = after
    half.node.n = node.n - at
    memcpy(half.node.entries, node.entries + at, (node.n - at) * sizeof(Entry))
    node.n = at
    node_slot(node, at)[0] = before
    s.cid = NULL
    left[0] = s
    right[0] = half
    return R_OK


cdef int _grow(Tree *t, int height) noexcept nogil:
    """Gives the tree a root of at least this height, over nodes that hold nothing but a pointer (D6). A Reason."""
    cdef Subtree *above
    if node_is_empty(t.root.node):
        t.root.node.height = <uint8_t>height
    while t.root.node.height < height:
        above = node_new(t, t.root.node.height + 1, 1)
        if above is NULL:
            return R_WORK_LIMIT
        above.node.left = t.root
        t.root = above
    return R_OK


cdef int _hang(Tree *t, Path *path) noexcept nogil:
    """Makes the nodes that lead from the path's end down to the key's height (D6). A Reason."""
    cdef Subtree *s
    cdef Node *node = path.steps[path.last].node
    while node.height > path.height:
        s = node_new(t, node.height - 1, 1)
        if s is NULL:
            return R_WORK_LIMIT
        node_slot(node, path.slots[path.last])[0] = s
        path.last += 1
        path.steps[path.last] = s
        path.slots[path.last] = 0
        node = s.node
    return R_OK


cdef int _insert(Tree *t, const RepoOp *op, Path *path) noexcept nogil:
    """Puts a key back with the value it had (D6). A Reason."""
    cdef Node *node
    cdef Entry *e
    cdef Subtree *left = NULL
    cdef Subtree *right = NULL
    cdef uint32_t at
    cdef int reason = _grow(t, path.height)
    if reason == R_OK:
        reason = _find(t, op, path)
        if reason == R_MST_MISSING_NODE or path.found:
            return R_MST_INVERT
    if reason == R_OK:
        reason = _hang(t, path)
    if reason != R_OK:
        return reason
    node = path.steps[path.last].node
    at = path.slots[path.last]
    reason = _split(t, node_slot(node, at)[0], op, node.height - 1, &left, &right)
    if reason == R_OK:
        reason = node_reserve(t, node, node.n + 1)
    if reason != R_OK:
        return reason
    t.work += node.n - at
    if t.work > MAX_TREE_WORK:
        return R_WORK_LIMIT
    e = node.entries + at
    memmove(e + 1, e, (node.n - at) * sizeof(Entry))
    node.n += 1
    node_slot(node, at)[0] = left
    e.key = op.path.p
    e.key_n = <uint16_t>op.path.n
    e.value = op.prev
    e.value_n = CID_SIZE
    e.right = right
    e.shared = SHARED_UNKNOWN
    if at + 1 < node.n:
        e[1].shared = SHARED_UNKNOWN
    _touch(path)
    return R_OK


# --- the ops of a commit ---------------------------------------------------------------------------------------------

cdef inline bint _holds(const Path *path, const uint8_t *cid) noexcept nogil:
    """Whether what the path has found is a key with this value."""
    cdef const Entry *e
    if not path.found:
        return False
    e = path.steps[path.last].node.entries + path.slots[path.last]
    return e.value_n == CID_SIZE and memcmp(e.value, cid, CID_SIZE) == 0


cdef int _forward(Tree *t, const RepoOp *op, Path *path) noexcept nogil:
    """The new tree holds what the op says (D3). A Reason."""
    cdef int reason
    path.found = False
    path.last = 0
    # The height says where a key would stand, and only there it can: a tree that is lower does not hold it.
    path.height = key_height(op.path.p, op.path.n) if op.action == OP_DELETE else NOT_HASHED
    reason = _find(t, op, path)
    if reason != R_OK:
        return reason
    if op.action == OP_DELETE:
        return R_MST_OP if path.found else R_OK
    return R_OK if _holds(path, op.cid) else R_MST_OP


cdef int _records(Scratch *s, const Car *car, const Message *m) noexcept nogil:
    """Created and updated records are in the CAR and are records (D3, C14). A Reason. None is looked at twice."""
    cdef CarBlock *block
    cdef uint32_t i, index
    cdef int reason
    cdef uint8_t *seen = NULL
    for i in range(m.n_ops):
        if m.ops[i].action == OP_DELETE:
            continue
        block = car_find(car, m.ops[i].cid)
        if block is NULL:
            return R_RECORD_MISSING
        if m.n_ops > 1:
            if seen is NULL:
                seen = <uint8_t *>scratch_alloc(s, car.n_blocks)
                if seen is NULL:
                    return R_WORK_LIMIT
                memset(seen, 0, car.n_blocks)
            index = <uint32_t>(block - car.blocks)
            if seen[index]:
                continue
            seen[index] = 1
        reason = record_check(block.data, block.n)
        if reason != R_OK:
            return reason
    return R_OK


cdef inline bint _comes_before(const RepoOp *a, const RepoOp *b) noexcept nogil:
    """The order in which ops are undone: deletes first, then by path (D4)."""
    if (a.action == OP_DELETE) != (b.action == OP_DELETE):
        return a.action == OP_DELETE
    return key_compare(a.path.p, a.path.n, b.path.p, b.path.n) < 0


cdef void _sort(const RepoOp *ops, uint8_t *order, uint8_t *spare, uint32_t n) noexcept nogil:
    """Merge sort of op numbers, bottom up; the result is in `order`."""
    cdef uint32_t width = 1, start, i, j, end, middle, k
    for i in range(n):
        order[i] = <uint8_t>i
    while width < n:
        start = 0
        while start < n:
            middle = min(start + width, n)
            end = min(start + 2 * width, n)
            i = start
            j = middle
            for k in range(start, end):
                if i < middle and (j >= end or not _comes_before(&ops[order[j]], &ops[order[i]])):
                    spare[k] = order[i]
                    i += 1
                else:
                    spare[k] = order[j]
                    j += 1
            start = end
        memcpy(order, spare, n)
        width *= 2


cdef int _undo(Tree *t, const RepoOp *op, Path *path) noexcept nogil:
    """Undoes one op whose height is in the path (D5). A Reason."""
    cdef Entry *e
    cdef int reason
    if op.action == OP_DELETE:
        return _insert(t, op, path)
    reason = _find(t, op, path)
    if reason != R_OK or not _holds(path, op.cid):
        return R_MST_INVERT if reason == R_OK else reason
    if op.action == OP_CREATE:
        return _remove(t, path)
    e = path.steps[path.last].node.entries + path.slots[path.last]
    if memcmp(op.prev, op.cid, CID_SIZE) != 0:   # the same value again is an update that changes nothing (design 14)
        e.value = op.prev
        _touch(path)
    return R_OK


cdef int _write(Tree *t, Subtree *s) noexcept nogil:
    """Gives every changed node of a subtree its CID, from below. A Reason. One call per level of height."""
    cdef Subtree *below
    cdef uint32_t i
    cdef int reason
    for i in range(s.node.n + 1):
        below = node_slot(s.node, i)[0]
        if below is not NULL and below.cid is NULL:
            reason = _write(t, below)
            if reason != R_OK:
                return reason
    return node_write(t, s)


cdef int _root(Tree *t, const uint8_t **cid) noexcept nogil:
    """The root's CID, after the top is trimmed (D7). A Reason."""
    cdef Subtree *s = t.root
    cdef int above, reason = R_OK
    while s.node.n == 0 and s.node.left is not NULL:
        above = s.node.height
        s = s.node.left
        if s.node is NULL:
            reason = node_read(t, s, above - 1)
            if reason == R_MST_MISSING_NODE:     # then it is the root as it stands: it holds a key, or prevData lies
                cid[0] = s.cid
                return R_OK
            if reason != R_OK:
                return reason
    if node_is_empty(s.node):
        cid[0] = EMPTY_ROOT
        return R_OK
    if s.cid is NULL:
        reason = _write(t, s)
    cid[0] = s.cid
    return reason


cdef int tree_invert(
    Tree *t, const uint8_t *root, const RepoOp *ops, uint32_t n, const uint8_t **before
) noexcept nogil:
    """Holds ops against the tree of this root and undoes them; `before` = CID of the root without them. A Reason."""
    cdef Path path
    cdef uint8_t order[MAX_OPS]
    cdef uint8_t spare[MAX_OPS]
    cdef uint8_t heights[MAX_OPS]
    cdef uint32_t i
    cdef int reason
    t.root = <Subtree *>tree_take(t, sizeof(Subtree))
    if t.root is NULL or n > MAX_OPS:
        return R_WORK_LIMIT
    memset(t.root, 0, sizeof(Subtree))
    t.root.cid = root
    reason = node_read(t, t.root, -1)
    if reason != R_OK:
        return reason
    for i in range(n):
        reason = _forward(t, &ops[i], &path)
        if reason != R_OK:
            return reason
        heights[i] = <uint8_t>path.height
    _sort(ops, order, spare, n)
    for i in range(n):
        path.height = heights[order[i]]
        reason = _undo(t, &ops[order[i]], &path)
        if reason != R_OK:
            return reason
    return _root(t, before)


cdef int tree_check(Scratch *s, const Message *m, const Commit *c, bint first) noexcept nogil:
    """The whole of D2 to D10 for a #commit that commit_open has passed; `first`: no stored state and since is null.

    A Reason. Without prevData only a first commit is good, and it must have started from the empty tree (D10).
    """
    cdef Tree t
    cdef const uint8_t *wanted = m.prev_data
    cdef const uint8_t *before = c.data
    cdef int reason = R_OK
    if wanted is NULL:
        if not first:
            return R_PREV_DATA_MISSING
        wanted = EMPTY_ROOT
    if m.n_ops > 0:
        reason = _records(s, &c.car, m)
        if reason == R_OK:
            tree_init(&t, s, &c.car)
            reason = tree_invert(&t, c.data, m.ops, m.n_ops, &before)
    if reason != R_OK:
        return reason
    # No ops: the tree need not be there, it must be the same (D2, B10).
    return R_OK if memcmp(before, wanted, CID_SIZE) == 0 else R_PREV_DATA_MISMATCH


# --- for tests and tools ---------------------------------------------------------------------------------------------

def check(frame: bytes, first: bool) -> str:
    """Label of the reason for which a #commit frame fails, signature apart; "ok" when it is good.

    `first`: the account has no stored state. Any thread; makes a scratch per call, so not for the path of frames.
    MemoryError.
    """
    cdef Opened o
    cdef int reason
    try:
        reason = opened_init(&o, frame)
        if reason == R_OK and o.message.kind != K_COMMIT:
            reason = R_FIELD_TYPE
        if reason == R_OK:
            reason = tree_check(&o.scratch, &o.message, &o.commit, first and not o.message.has_since)
    finally:
        opened_free(&o)
    return verdicts.REASONS[reason].label


_ACTIONS = {"create": OP_CREATE, "update": OP_UPDATE, "delete": OP_DELETE}


def invert(car: bytes, root: bytes, ops: list[tuple[str, bytes, bytes | None, bytes | None]]) -> tuple[str, bytes]:
    """Undoes ops (action, path, cid, prev) on the partial tree below `root` (36 bytes) in a CAR.

    (label of the reason, CID of the root before; empty unless the label is "ok"). Any thread. Paths are taken as they
    are, records need not be there. ValueError: a CID that is not 36 bytes long, too many ops. MemoryError.
    """
    cdef Scratch s
    cdef Car parsed
    cdef Slice whole
    cdef Tree t
    cdef RepoOp raw[MAX_OPS]
    cdef const uint8_t *before = NULL
    cdef void *copy
    cdef int reason
    if len(ops) > MAX_OPS or any(len(c) != CID_SIZE for c in [root, *(x for op in ops for x in op[2:] if x)]):
        raise ValueError("too many ops, or a CID that is not 36 bytes long")
    for i, (action, path, cid, prev) in enumerate(ops):
        raw[i].action = _ACTIONS[action]
        raw[i].collection_n = 0
        raw[i].path.p = path
        raw[i].path.n = <uint32_t>len(path)
        raw[i].cid = raw[i].prev = NULL
        if cid is not None:
            raw[i].cid = cid
        if prev is not None:
            raw[i].prev = prev
    copy = zl_copy_bytes(car)
    memset(&s, 0, sizeof(s))
    try:
        if scratch_init(&s, SCRATCH_BYTES) != 0:
            raise MemoryError
        whole.p = <const uint8_t *>copy
        whole.n = <uint32_t>len(car)
        reason = car_parse(&s, whole, &parsed, True)
        if reason == R_OK:
            tree_init(&t, &s, &parsed)
            reason = tree_invert(&t, root, raw, <uint32_t>len(ops), &before)
        return verdicts.REASONS[reason].label, before[:CID_SIZE] if reason == R_OK else b""
    finally:
        scratch_free(&s)
        zl_free(copy)
