"""SHA-256 and the two curves (C3, C4). Contexts are made once at import and read-only; a KeyCache belongs to one worker thread."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum KeyType:
    KEY_NONE
    KEY_K256
    KEY_P256

cdef struct SigningKey:
    uint8_t type                 # KeyType
    uint8_t bytes[64]            # K-256: secp256k1_pubkey as parsed; P-256: X || Y

cdef struct KeyCache:            # bounded cache of OpenSSL P-256 key objects; owned by one worker
    void *impl

cdef void sha256(const uint8_t *p, size_t n, uint8_t *out32) noexcept nogil
cdef int key_parse(int key_type, const uint8_t *point, uint32_t n, SigningKey *out) noexcept nogil   # 33 or 65 bytes; 0 or -1
cdef int key_cache_init(KeyCache *c, uint32_t capacity) noexcept nogil
cdef void key_cache_free(KeyCache *c) noexcept nogil
# Reason: R_OK, R_SIG_FORM, R_SIG_HIGH_S, R_SIG_INVALID
cdef int signature_verify(const SigningKey *key, const uint8_t *digest32, const uint8_t *sig, uint32_t sig_n, KeyCache *cache) noexcept nogil
