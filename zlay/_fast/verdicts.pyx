"""The one table of reasons a frame is dropped or held, and the counters behind relay_events_total{verdict,reason}.

Promises: every Reason of verdicts.pxd has one entry here, in the enum's order (checked at import); labels are unique.
Threads: the tables are immutable; count_verdict and counts may be called by any thread. Counters are striped and
relaxed, so counting costs a few nanoseconds and never waits.
"""

from typing import NamedTuple

from libc.stdint cimport uint64_t
from libc.string cimport memset

from atomics cimport zl_add64_relaxed, zl_load64_relaxed
from stripe cimport ZL_STRIPES, zl_stripe

__all__ = ["KINDS", "REASONS", "REASON_BY_LABEL", "STATUSES", "VERDICTS", "ReasonInfo", "counts"]


class ReasonInfo(NamedTuple):
    """Why a frame was dropped or held: its number in the C enum, metric label, class, clause, and one sentence."""

    code: int
    label: str
    verdict: str  # "pass" (only "ok"), "drop" or "hold"
    clause: str  # of protocol.md (A to G) or design.md (section n)
    text: str


VERDICTS = ("pass", "drop", "hold")
KINDS = ("unknown", "commit", "sync", "identity", "account", "info", "error", "obsolete")
STATUSES = (
    "active", "deactivated", "suspended", "takendown", "deleted", "desynchronized", "throttled", "inactive", "unknown",
)

_DROPS = (
    (R_CBOR_TRUNCATED, "cbor_truncated", "C12", "The bytes end inside an item, or a declared length exceeds them."),
    (R_CBOR_NOT_SHORTEST, "cbor_not_shortest", "C12", "An integer, length or tag is not in its shortest form."),
    (R_CBOR_INDEFINITE, "cbor_indefinite", "C12", "A length is indefinite, or a break stands alone."),
    (R_CBOR_KEY_ORDER, "cbor_key_order", "C12", "Map keys are not ascending by encoded bytes, or repeat."),
    (R_CBOR_KEY_TYPE, "cbor_key_type", "C12", "A map key is not a text string."),
    (R_CBOR_FLOAT, "cbor_float", "C12, design 14", "A float stands where none may, or is not a canonical float64."),
    (R_CBOR_TAG, "cbor_tag", "C12", "A tag other than 42."),
    (R_CBOR_SIMPLE, "cbor_simple", "C12", "A simple value other than false, true and null, or a reserved form."),
    (R_CBOR_UTF8, "cbor_utf8", "C12", "A text string is not valid UTF-8."),
    (R_CBOR_CID, "cbor_cid", "C11", "Tag 42 does not hold a zero byte and a well-formed CID."),
    (R_CBOR_DEPTH, "cbor_depth", "C13", "Items are nested deeper than 64."),
    (R_CBOR_INT_RANGE, "cbor_int_range", "C12", "An integer does not fit signed 64 bits."),
    (R_CBOR_TRAILING, "cbor_trailing", "A3, C12", "Bytes follow the last item."),
    (R_CBOR_LIMIT, "cbor_limit", "design 14", "A map or array has more entries than common consumers take."),
    (R_FRAME_TOO_LARGE, "frame_too_large", "A8", "The frame, or what we would send, exceeds 5,000,000 bytes."),
    (R_FRAME_HEADER, "frame_header", "A4", "The header is no map, op or t is missing or mistyped, or t is no #name."),
    (R_FRAME_OP, "frame_op", "A5", "op is neither 1 nor -1."),
    (R_FRAME_PAYLOAD, "frame_payload", "A5", "The payload is no map, or has a $type."),
    (R_FRAME_OBSOLETE, "frame_obsolete", "B8", "A message type that was removed: #handle, #tombstone, #migrate."),
    (R_FRAME_INFO, "frame_info", "B7", "#info or an error frame: noted, never passed on."),
    (R_FRAME_NO_ACCOUNT, "frame_no_account", "design 14", "A message of unknown type names no account."),
    (R_FIELD_MISSING, "field_missing", "B2 to B6", "A required field is missing."),
    (R_FIELD_TYPE, "field_type", "B2 to B6, design 14", "A known field has the wrong type, or is null."),
    (R_FIELD_SEQ, "field_seq", "A11", "seq is missing, no integer, or outside 1 to 2^53 - 1."),
    (R_FIELD_DID, "field_did", "B12, G1", "did or repo is no did:plc and no hostname-level did:web."),
    (R_FIELD_REV, "field_rev", "B2, C5", "rev or since is no TID."),
    (R_FIELD_TIME, "field_time", "B12", "time is no datetime."),
    (R_FIELD_HANDLE, "field_handle", "B5, B12", "handle is not in handle syntax."),
    (R_FIELD_TOO_BIG, "field_too_big", "B2", "tooBig is true."),
    (R_FIELD_REBASE, "field_rebase", "B2", "rebase is true."),
    (R_FIELD_BLOCKS_SIZE, "field_blocks_size", "B9", "blocks exceeds 2,000,000 bytes (#commit) or 10,000 (#sync)."),
    (R_OPS_TOO_MANY, "ops_too_many", "B9", "More than 200 ops."),
    (R_OP_SHAPE, "op_shape", "B3", "action, cid and prev of an op do not fit together."),
    (R_OP_PATH, "op_path", "C1", "The path of an op is not NSID/record key."),
    (R_OP_DUPLICATE_PATH, "op_duplicate_path", "B3", "One path stands twice in the ops."),
    (R_CAR_HEADER, "car_header", "C10", "blocks does not begin with a CAR version 1 header."),
    (R_CAR_NO_ROOT, "car_no_root", "C10", "The CAR has no root."),
    (R_CAR_BLOCK, "car_block", "C10, C11", "A CAR entry is truncated, or its CID is not of the blessed form."),
    (R_CAR_TOO_MANY_BLOCKS, "car_too_many_blocks", "C10", "The CAR has more than 20,000 blocks."),
    (R_BLOCK_HASH, "block_hash", "C10", "The bytes of a block do not hash to its CID."),
    (R_BLOCK_SIZE, "block_size", "B9", "A record exceeds 1,000,000 bytes."),
    (R_RECORD_NOT_MAP, "record_not_map", "C14", "A record is no DRISL map with string keys."),
    (R_ROOT_MISMATCH, "root_mismatch", "C3, C10", "The first root of the CAR is not the message's commit."),
    (R_COMMIT_MISSING, "commit_missing", "C10", "The commit block is not in the CAR."),
    (R_COMMIT_SHAPE, "commit_shape", "C2", "The commit block lacks a field, or one is of the wrong type."),
    (R_COMMIT_VERSION, "commit_version", "C2", "The commit's version is not 3."),
    (R_COMMIT_DID, "commit_did", "D1", "The commit names another account than the message."),
    (R_COMMIT_REV, "commit_rev", "D1", "The commit has another rev than the message."),
    (R_COMMIT_PREV, "commit_prev", "C2", "The commit's prev is neither null nor a link."),
    (R_SIG_FORM, "sig_form", "C3", "The signature is not 64 bytes r, s within range."),
    (R_SIG_HIGH_S, "sig_high_s", "C3", "The signature's s is above n/2."),
    (R_SIG_INVALID, "sig_invalid", "C3, E4", "The signature is not by the account's current key."),
    (R_MST_NODE, "mst_node", "C9", "A tree node breaks a rule of its form."),
    (R_MST_DEPTH, "mst_depth", "C9", "A tree node hangs below height 0."),
    (R_MST_MISSING_NODE, "mst_missing_node", "D2, D3", "The root, or a node towards an op's key, is not in the CAR."),
    (R_MST_OP, "mst_op", "D3", "The new tree does not hold what an op says."),
    (R_RECORD_MISSING, "record_missing", "D3", "The block of a created or updated record is not in the CAR."),
    (R_MST_INVERT, "mst_invert", "D5, D8", "An op cannot be undone with the nodes that the CAR holds."),
    (R_PREV_DATA_MISMATCH, "prev_data_mismatch", "D9", "Undoing the ops does not lead back to prevData."),
    (R_PREV_DATA_MISSING, "missing_prev_data", "B2, design 14", "No prevData, though not the first commit."),
    (R_WORK_LIMIT, "work_limit", "C9, design 5", "The frame takes more memory or tree work than one may."),
    (R_DID_NOT_FOUND, "did_not_found", "E1", "The directory knows no such DID."),
    (R_DID_TOMBSTONED, "did_tombstoned", "E1", "The DID is tombstoned."),
    (R_NO_KEY, "no_key", "E1, G4", "The DID document has no usable signing key."),
    (R_NO_PDS, "no_pds", "E1, G4", "The DID document names no usable PDS."),
    (R_WRONG_HOST, "wrong_host", "E2", "The DID document names another host than the one that sent the frame."),
    (R_ACCOUNT_INACTIVE, "account_inactive", "E5", "The account is not active on its host."),
    (R_ACCOUNT_TAKEDOWN, "account_takedown", "E5, E8", "The account is taken down here."),
    (R_HOLD_EXPIRED, "hold_expired", "design 5", "The directory answered for other DIDs, not for this one."),
    (R_REV_STALE, "rev_stale", "E6", "The rev is not newer than the last one processed."),
    (R_REV_FUTURE, "rev_future", "C6", "The rev lies more than 5 minutes in the future."),
    (R_SYNC_NOOP, "sync_noop", "E6", "A #sync with the stored rev and data says nothing new."),
    (R_SEQ_REGRESSION, "seq_regression", "A19", "seq is not above the last one on this connection."),
    (R_DUPLICATE, "duplicate", "design 4", "The event is in the log already."),
    (R_HOST_BANNED, "host_banned", "E20", "The host is banned."),
    (R_SHUTDOWN, "shutdown", "design 5", "Let go at shutdown, with the host's cursor below it."),
)
_HOLDS = (
    (R_HOLD_ACCOUNT, "hold_account", "design 5", "The account is being loaded."),
    (R_HOLD_IDENTITY, "hold_identity", "E1, E4", "The identity is being resolved."),
    (R_HOLD_STATUS, "hold_status", "E5", "The PDS is being asked whether the account is active."),
    (R_HOLD_BEHIND, "hold_behind", "E12", "An earlier frame of the same account is held."),
)

REASONS = (
    ReasonInfo(R_OK, "ok", "pass", "design 5", "Everything was checked and holds."),
    *(ReasonInfo(code, label, "drop", clause, text) for code, label, clause, text in _DROPS),
    *(ReasonInfo(code, label, "hold", clause, text) for code, label, clause, text in _HOLDS),
)
REASON_BY_LABEL = {reason.label: reason for reason in REASONS}

if [reason.code for reason in REASONS] != list(range(R_COUNT)) or len(REASON_BY_LABEL) != R_COUNT:
    raise ImportError("verdicts: the table does not follow the enum")
if len(KINDS) != K_COUNT or len(STATUSES) != S_COUNT or len(VERDICTS) != V_COUNT:
    raise ImportError("verdicts: names and enums differ in number")

cdef struct Stripe:
    uint64_t n[V_COUNT][R_COUNT]
    uint64_t pad[8]              # keeps neighbours off one cache line

cdef Stripe _stripes[ZL_STRIPES]
memset(_stripes, 0, sizeof(_stripes))

cdef void count_verdict(int verdict_class, int reason) noexcept nogil:
    zl_add64_relaxed(&_stripes[zl_stripe()].n[verdict_class][reason], 1)


def counts():
    """How often each verdict was given since the process began: {(verdict, reason label): n}, zeros included.

    The keys are ("pass", "ok"), ("drop", label) and ("hold", label) of every reason of that class. Any thread.
    """
    cdef int i, code, verdict
    cdef uint64_t n
    cdef dict out = {}
    for reason in REASONS:
        code = reason.code
        verdict = VERDICTS.index(reason.verdict)
        n = 0
        for i in range(ZL_STRIPES):
            n += zl_load64_relaxed(&_stripes[i].n[verdict][code])
        out[reason.verdict, reason.label] = n
    return out


# --- for tests and tools ---

def count(str verdict, str label):
    """Counts one verdict, as a worker would."""
    cdef int v = VERDICTS.index(verdict)
    cdef int r = REASON_BY_LABEL[label].code
    with nogil:
        count_verdict(v, r)
