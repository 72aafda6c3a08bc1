"""The one table of reasons. verdicts.pyx gives each its label, class and clause; nothing else names a reason."""

cdef enum Reason:
    R_OK
    # --- encoding (protocol C12, A3, A4) ---
    R_CBOR_TRUNCATED        # ends inside an item, or a declared length exceeds what is there
    R_CBOR_NOT_SHORTEST     # integer, length or float not in its shortest/only form
    R_CBOR_INDEFINITE
    R_CBOR_KEY_ORDER        # map keys not strictly ascending by encoded bytes, duplicates included
    R_CBOR_KEY_TYPE         # map key that is not a text string
    R_CBOR_FLOAT            # float where none may stand (design 14), NaN, infinities, f16/f32
    R_CBOR_TAG              # tag other than 42
    R_CBOR_SIMPLE           # simple value other than false, true, null
    R_CBOR_UTF8
    R_CBOR_CID              # tag 42 whose content is not 0x00 + a well-formed CID
    R_CBOR_DEPTH
    R_CBOR_INT_RANGE        # integer outside signed 64 bit
    R_CBOR_TRAILING         # bytes after the two items of a frame, or after a block's one item
    R_CBOR_LIMIT            # map or array over its entry limit (design 14)
    # --- frame (A4, A5, A8, B8) ---
    R_FRAME_TOO_LARGE
    R_FRAME_HEADER          # header not a map, op or t missing or mistyped, t without #
    R_FRAME_OP              # op neither 1 nor -1
    R_FRAME_PAYLOAD         # payload not a map, or has $type
    R_FRAME_OBSOLETE        # #handle, #tombstone, #migrate
    R_FRAME_INFO            # #info: noted, never passed on
    R_FRAME_NO_ACCOUNT      # unknown t without did or repo
    # --- message fields (B) ---
    R_FIELD_MISSING
    R_FIELD_TYPE
    R_FIELD_SEQ             # missing, mistyped, outside 1..2^53-1
    R_FIELD_DID
    R_FIELD_REV
    R_FIELD_TIME
    R_FIELD_HANDLE
    R_FIELD_TOO_BIG         # tooBig true
    R_FIELD_REBASE          # rebase true
    R_FIELD_BLOCKS_SIZE     # blocks over 2,000,000 (#commit) or 10,000 (#sync)
    R_OPS_TOO_MANY
    R_OP_SHAPE              # action, cid and prev do not fit together (B3)
    R_OP_PATH               # not NSID/record key (C1)
    R_OP_DUPLICATE_PATH
    # --- CAR and blocks (C10, C11) ---
    R_CAR_HEADER
    R_CAR_NO_ROOT
    R_CAR_BLOCK             # truncated entry, malformed CID
    R_CAR_TOO_MANY_BLOCKS
    R_BLOCK_HASH            # sha256(data) is not the CID's digest
    R_BLOCK_SIZE            # record block over 1,000,000
    R_RECORD_NOT_MAP        # record block that is no DRISL map
    R_ROOT_MISMATCH         # root[0] is not the message's commit
    R_COMMIT_MISSING        # commit block not in the CAR
    R_COMMIT_SHAPE          # commit block not a map of the fields of C2
    R_COMMIT_VERSION
    R_COMMIT_DID            # commit.did is not the message's account
    R_COMMIT_REV            # commit.rev is not the message's rev
    R_COMMIT_PREV           # prev neither null nor link
    # --- signature (C3, E4) ---
    R_SIG_FORM              # not 64 bytes, r or s out of range (DER included)
    R_SIG_HIGH_S
    R_SIG_INVALID
    # --- tree (C7, C9, D) ---
    R_MST_NODE              # a node breaks a rule of C9
    R_MST_DEPTH             # a node below height 0
    R_MST_MISSING_NODE      # root or a node on the way to an op's key is not in the CAR (D2, D3)
    R_MST_OP                # tree does not hold what an op says (D3)
    R_RECORD_MISSING        # created or updated record's block is not in the CAR
    R_MST_INVERT            # an op cannot be undone with the nodes that the CAR holds (D5, D8)
    R_PREV_DATA_MISMATCH    # inversion gives another root than prevData (D9), or an empty commit changed data
    R_PREV_DATA_MISSING     # only a first commit may lack it
    R_WORK_LIMIT            # more scratch or tree work than one frame may cost
    # --- identity and account (E) ---
    R_DID_NOT_FOUND
    R_DID_TOMBSTONED
    R_NO_KEY                # document without a usable #atproto key
    R_NO_PDS                # document without a usable #atproto_pds
    R_WRONG_HOST
    R_ACCOUNT_INACTIVE
    R_ACCOUNT_TAKEDOWN      # local status
    R_HOLD_EXPIRED
    R_REV_STALE
    R_REV_FUTURE
    R_SYNC_NOOP
    # --- stream (A19, design 4) ---
    R_SEQ_REGRESSION        # upstream seq not above the last on this socket
    R_DUPLICATE             # already in the log (after a restart)
    R_HOST_BANNED
    R_SHUTDOWN              # let go at shutdown, the host's cursor stays below
    # --- reasons to hold, never final ---
    R_HOLD_ACCOUNT          # account not loaded yet
    R_HOLD_IDENTITY         # key not known, or to be refreshed
    R_HOLD_STATUS           # asking the PDS whether the account is active again
    R_HOLD_BEHIND           # an earlier frame of the same DID is held
    R_COUNT

cdef enum Kind:              # message type, also `kind` in the log's index
    K_UNKNOWN                # unknown t, passed through
    K_COMMIT
    K_SYNC
    K_IDENTITY
    K_ACCOUNT
    K_INFO
    K_ERROR                  # op -1
    K_OBSOLETE
    K_COUNT

cdef enum Status:            # account status, upstream and local; also in the log's index
    S_ACTIVE
    S_DEACTIVATED
    S_SUSPENDED
    S_TAKENDOWN
    S_DELETED
    S_DESYNCHRONIZED         # may be active
    S_THROTTLED              # may be active
    S_INACTIVE               # active false without (known) status
    S_UNKNOWN
    S_COUNT

cdef enum VerdictClass:      # label `verdict` of relay_events_total
    V_PASS
    V_DROP
    V_HOLD
    V_COUNT

# One more frame (for holds: one more time a frame was put aside) with this verdict. Any thread; never blocks.
cdef void count_verdict(int verdict_class, int reason) noexcept nogil
