"""SHA-256 and the two curves (C3, C4). What import makes is only read; a KeyCache belongs to one worker thread."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef enum:
    DIGEST_SIZE = 32
    SIGNATURE_SIZE = 64          # r || s, big-endian (C3)
    POINT_BYTES = 65             # the longest form of a public key (C4)

cdef enum KeyType:
    KEY_NONE
    KEY_K256
    KEY_P256

cdef struct SigningKey:
    uint8_t type                 # KeyType
    uint8_t bytes[64]            # K-256: secp256k1_pubkey as parsed; P-256: X || Y, proven to be on the curve

cdef struct KeyCache:            # what OpenSSL needs to check P-256 signatures; owned by one worker
    void *key                    # EC_KEY: holds the point `loaded`
    void *sig                    # ECDSA_SIG: owns r and s
    void *r                      # BIGNUM
    void *s                      # BIGNUM
    void *work                   # BN_CTX
    uint8_t loaded[64]           # X || Y; zeroes = none yet
    uint64_t loads               # times that another point was put in; its thread writes, any thread reads

# Any thread.
cdef void sha256(const uint8_t *p, size_t n, uint8_t *out32) noexcept nogil
cdef uint32_t sha256_zero_bits(const uint8_t *p, size_t n) noexcept nogil    # how many 0 bits a digest begins with
cdef void sha256_parts(const uint8_t **parts, const size_t *sizes, int count, uint8_t *out32) noexcept nogil
# 33 or 65 bytes; 0, or -1 and a key of KEY_NONE
cdef int key_parse(int key_type, const uint8_t *point, uint32_t n, SigningKey *out) noexcept nogil
# Whether the key is of this type and point, which need not have been looked at. Parses nothing.
cdef bint key_is(const SigningKey *key, int key_type, const uint8_t *point, uint32_t n) noexcept nogil
# One thread, the cache's own.
cdef int key_cache_init(KeyCache *c) noexcept nogil      # 0, or -1 when out of memory
cdef void key_cache_free(KeyCache *c) noexcept nogil
# Reason: R_OK, R_NO_KEY (the key is KEY_NONE), R_SIG_FORM, R_SIG_HIGH_S, R_SIG_INVALID
cdef int signature_verify(
    const SigningKey *key, const uint8_t *digest32, const uint8_t *sig, uint32_t sig_n, KeyCache *cache
) noexcept nogil
