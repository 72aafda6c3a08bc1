"""Any bytes as a DID, a handle, an NSID, a record key, a path, a datetime, a TID (B12, C1, C5, G1)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast.drisl cimport utf8_valid
from zlay._fast.syntax cimport (
    TID_CHARS, account_did_valid, datetime_valid, did_valid, handle_valid, nsid_valid, path_collection,
    record_key_valid, tid_format, tid_parse
)

cdef enum:
    DID_MAX = 2048               # B12
    ACCOUNT_DID_MAX = 261        # what the account table has room for: did:web: and a host name
    HANDLE_MAX = 253
    PATH_MAX = 317 + 1 + 512     # C1
    DATETIME_MAX = 64


cdef public int LLVMFuzzerTestOneInput(const uint8_t *p, size_t size) noexcept nogil:
    cdef uint8_t text[TID_CHARS]
    cdef uint32_t n = <uint32_t>size, nsid_n
    cdef uint64_t tid
    cdef bint valid = did_valid(p, n)
    zl_promise(not valid or n <= DID_MAX)
    if account_did_valid(p, n):
        zl_promise(valid and n <= ACCOUNT_DID_MAX)
    zl_promise(not handle_valid(p, n) or n <= HANDLE_MAX)
    zl_promise(not datetime_valid(p, n) or n <= DATETIME_MAX)
    nsid_valid(p, n)
    record_key_valid(p, n)
    nsid_n = path_collection(p, n)
    if nsid_n:
        zl_promise(n <= PATH_MAX and nsid_n + 1 < n and p[nsid_n] == c'/' and utf8_valid(p, n))
        zl_promise(nsid_valid(p, nsid_n) and record_key_valid(p + nsid_n + 1, n - nsid_n - 1))
    if tid_parse(p, n, &tid):
        tid_format(tid, text)
        zl_promise(n == TID_CHARS and memcmp(text, p, n) == 0)
    return 0
