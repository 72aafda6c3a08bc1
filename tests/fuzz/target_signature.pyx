"""Any bytes as a public key and a signature of either curve (C3, C4), the libraries' own verification included.

An input is one byte for the curve and the point's form, the point, a digest, the signature.
"""

from libc.stdint cimport uint8_t, uint32_t

from tests.fuzz.fuzzer cimport zl_promise
from zlay._fast.crypto cimport (
    DIGEST_SIZE, KEY_K256, KEY_NONE, KEY_P256, KeyCache, SigningKey, key_cache_init, key_parse, signature_verify
)
from zlay._fast.verdicts cimport R_OK, R_SIG_FORM, R_SIG_HIGH_S, R_SIG_INVALID

cdef KeyCache cache

if key_cache_init(&cache):
    raise MemoryError


cdef public int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) noexcept nogil:
    cdef SigningKey key
    cdef int kind, r
    cdef uint32_t point_n
    if n < 1:
        return -1
    kind = KEY_P256 if data[0] & 1 else KEY_K256
    point_n = 65 if data[0] & 2 else 33
    data += 1
    n -= 1
    if n < point_n + DIGEST_SIZE:
        zl_promise(n == 33 or n == 65 or key_parse(kind, data, <uint32_t>n, &key) != 0)
        return 0
    if key_parse(kind, data, point_n, &key) != 0:
        zl_promise(key.type == KEY_NONE)
        return 0
    data += point_n
    n -= point_n
    r = signature_verify(&key, data, data + DIGEST_SIZE, <uint32_t>(n - DIGEST_SIZE), &cache)
    zl_promise(r == R_OK or r == R_SIG_FORM or r == R_SIG_HIGH_S or r == R_SIG_INVALID)
    zl_promise(r != R_OK or n == DIGEST_SIZE + 64)
    return 0
