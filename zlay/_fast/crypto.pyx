# distutils: libraries = crypto secp256k1
"""SHA-256 and the signatures of the two curves (C3, C4).

Promises: no allocation of ours and no lock on any path here. libsecp256k1 allocates nothing at all; OpenSSL allocates
some twenty small blocks inside each P-256 verification and frees them before it returns.
Assumes nothing of the bytes it is given: a signature is looked at before a library sees it.
Threads: everything that takes no KeyCache may be called by any thread. A KeyCache is used by one thread at a time.

Why a KeyCache holds one P-256 key and not many: loading a parsed point into an OpenSSL key, curve equation checked
again, takes 0.4 us and allocates nothing, beside 40 us for the verification that follows. A cache of key objects would
cost kilobytes an entry to save one part in a hundred. What is worth keeping is the parsed point (finding Y for a
compressed one takes 12 us), and that is kept where the account is.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from zlay._fast.includes.atomics cimport zl_bump64
from zlay._fast.includes.openssl cimport (
    BIGNUM, BN_bin2bn, BN_CTX, BN_CTX_free, BN_CTX_new, BN_free, BN_new, EC_GROUP, EC_GROUP_get0_generator,
    EC_GROUP_new_by_curve_name, EC_KEY, EC_KEY_free, EC_KEY_get0_group, EC_KEY_get0_public_key, EC_KEY_new,
    EC_KEY_set_group, EC_KEY_set_public_key, EC_POINT, EC_POINT_free, EC_POINT_new, EC_POINT_oct2point,
    EC_POINT_point2oct, ECDSA_do_verify, ECDSA_SIG, ECDSA_SIG_free, ECDSA_SIG_new, ECDSA_SIG_set0, ERR_clear_error,
    NID_X9_62_prime256v1, POINT_CONVERSION_UNCOMPRESSED, SHA256_CTX, SHA256_Final, SHA256_Init,
    SHA256_Transform, SHA256_Update
)
from zlay._fast.includes.secp256k1 cimport (
    SECP256K1_EC_COMPRESSED, SECP256K1_EC_UNCOMPRESSED, secp256k1_context_static, secp256k1_ec_pubkey_parse,
    secp256k1_ec_pubkey_serialize, secp256k1_ecdsa_signature,
    secp256k1_ecdsa_signature_parse_compact, secp256k1_ecdsa_verify, secp256k1_pubkey, secp256k1_selftest
)
from zlay._fast.verdicts cimport R_NO_KEY, R_OK, R_SIG_FORM, R_SIG_HIGH_S, R_SIG_INVALID

from zlay._fast import verdicts

cdef enum:
    SCALAR_BYTES = 32
    BLOCK_BYTES = 64                 # SHA-256 works on as many at a time; one that is short by 9 holds a whole message
    WORD_BITS = 32
    COMPRESSED_POINT_BYTES = 33      # 02 or 03, X
    UNCOMPRESSED_POINT_BYTES = POINT_BYTES  # 04, X, Y

# Group orders n, and n / 2 rounded down: the highest s that is low (C3).
cdef const uint8_t *K256_ORDER = (
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"
    b"\xba\xae\xdc\xe6\xaf\x48\xa0\x3b\xbf\xd2\x5e\x8c\xd0\x36\x41\x41"
)
cdef const uint8_t *K256_HALF = (
    b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
    b"\x5d\x57\x6e\x73\x57\xa4\x50\x1d\xdf\xe9\x2f\x46\x68\x1b\x20\xa0"
)
cdef const uint8_t *P256_ORDER = (
    b"\xff\xff\xff\xff\x00\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff"
    b"\xbc\xe6\xfa\xad\xa7\x17\x9e\x84\xf3\xb9\xca\xc2\xfc\x63\x25\x51"
)
cdef const uint8_t *P256_HALF = (
    b"\x7f\xff\xff\xff\x80\x00\x00\x00\x7f\xff\xff\xff\xff\xff\xff\xff"
    b"\xde\x73\x7d\x56\xd3\x8b\xcf\x42\x79\xdc\xe5\x61\x7e\x31\x92\xa8"
)

# Made once by import, never freed, only read: OpenSSL's groups may be shared for reading.
cdef EC_GROUP *p256 = EC_GROUP_new_by_curve_name(NID_X9_62_prime256v1)
if p256 is NULL:
    raise ImportError("OpenSSL's libcrypto has no curve P-256")
secp256k1_selftest()                 # aborts when the library was compiled wrongly; its authors ask for the call


cdef extern from *:
    """
    #define zl_leading_zeros(word) ((uint32_t)__builtin_clz(word))
    """
    uint32_t _leading_zeros "zl_leading_zeros"(unsigned int word) nogil    # of a word that is not 0


# --- SHA-256 ---------------------------------------------------------------------------------------------------------

cdef void sha256(const uint8_t *p, size_t n, uint8_t *out32) noexcept nogil:
    """Digest of n bytes."""
    cdef SHA256_CTX c
    SHA256_Init(&c)
    SHA256_Update(&c, p, n)
    SHA256_Final(out32, &c)


cdef uint32_t sha256_zero_bits(const uint8_t *p, size_t n) noexcept nogil:
    """Leading zero bits of the digest of n bytes: 0..256. Nothing is wiped afterwards: for what is public."""
    cdef SHA256_CTX c
    cdef uint8_t block[BLOCK_BYTES]
    cdef uint32_t i = 0
    SHA256_Init(&c)
    if n <= BLOCK_BYTES - 9:         # padded here: most keys of trees are that short, and a commit has dozens
        memset(block, 0, BLOCK_BYTES)
        memcpy(block, p, n)
        block[n] = 0x80
        block[BLOCK_BYTES - 2] = <uint8_t>(n >> 5)
        block[BLOCK_BYTES - 1] = <uint8_t>(n << 3)
        SHA256_Transform(&c, block)
    else:
        SHA256_Update(&c, p, n)
        SHA256_Final(block, &c)      # leaves the digest in c.h, too
    while i < DIGEST_SIZE // 4 and c.h[i] == 0:
        i += 1
    return i * WORD_BITS + (_leading_zeros(c.h[i]) if i < DIGEST_SIZE // 4 else 0)


cdef void sha256_parts(const uint8_t **parts, const size_t *sizes, int count, uint8_t *out32) noexcept nogil:
    """Digest of several pieces of memory as if they stood one after the other."""
    cdef SHA256_CTX c
    cdef int i
    SHA256_Init(&c)
    for i in range(count):
        SHA256_Update(&c, parts[i], sizes[i])
    SHA256_Final(out32, &c)


# --- keys ------------------------------------------------------------------------------------------------------------

cdef int key_parse(int key_type, const uint8_t *point, uint32_t n, SigningKey *out) noexcept nogil:
    """Reads a public key of 33 or 65 bytes and proves that it is a point of its curve. 0, or -1: no usable key."""
    out.type = KEY_NONE
    memset(out.bytes, 0, sizeof(out.bytes))
    # The libraries would also take the hybrid form (06, 07), which is no form of C4.
    if n == COMPRESSED_POINT_BYTES:
        if point[0] != 2 and point[0] != 3:
            return -1
    elif n != UNCOMPRESSED_POINT_BYTES or point[0] != 4:
        return -1
    if key_type == KEY_K256:
        if secp256k1_ec_pubkey_parse(secp256k1_context_static, <secp256k1_pubkey *>out.bytes, point, n) != 1:
            return -1
    elif key_type != KEY_P256 or _p256_parse(point, n, out.bytes) != 0:
        return -1
    out.type = <uint8_t>key_type
    return 0


cdef bint key_is(const SigningKey *key, int key_type, const uint8_t *point, uint32_t n) noexcept nogil:
    """Whether a parsed key is that of this point, so that the same key is not parsed again when it is told again."""
    cdef uint8_t own[UNCOMPRESSED_POINT_BYTES]
    cdef size_t own_n = n
    if key.type != key_type or (n != COMPRESSED_POINT_BYTES and n != UNCOMPRESSED_POINT_BYTES):
        return False
    if key_type == KEY_K256:
        secp256k1_ec_pubkey_serialize(
            secp256k1_context_static, own, &own_n, <const secp256k1_pubkey *>key.bytes,
            SECP256K1_EC_COMPRESSED if n == COMPRESSED_POINT_BYTES else SECP256K1_EC_UNCOMPRESSED,
        )
    else:
        own[0] = 4 if n == UNCOMPRESSED_POINT_BYTES else 2 | key.bytes[2 * SCALAR_BYTES - 1] & 1
        memcpy(own + 1, key.bytes, n - 1)
    return memcmp(own, point, n) == 0


cdef int _p256_parse(const uint8_t *point, uint32_t n, uint8_t *xy) noexcept nogil:
    cdef uint8_t whole[UNCOMPRESSED_POINT_BYTES]
    cdef EC_POINT *q = EC_POINT_new(p256)
    cdef int rc = -1
    if q is NULL:
        return -1
    # oct2point refuses coordinates that are off the curve or not below the field's prime.
    if EC_POINT_oct2point(p256, q, point, n, NULL) == 1 and EC_POINT_point2oct(
        p256, q, POINT_CONVERSION_UNCOMPRESSED, whole, sizeof(whole), NULL
    ) == sizeof(whole):
        memcpy(xy, whole + 1, 2 * SCALAR_BYTES)
        rc = 0
    else:
        ERR_clear_error()
    EC_POINT_free(q)
    return rc


cdef int key_cache_init(KeyCache *c) noexcept nogil:
    """Makes the cache of one worker; key_cache_free undoes it, also after a failure. 0, or -1: out of memory."""
    memset(c, 0, sizeof(c[0]))
    c.key = EC_KEY_new()
    c.work = BN_CTX_new()
    cdef ECDSA_SIG *sig = ECDSA_SIG_new()
    cdef BIGNUM *r = BN_new()
    cdef BIGNUM *s = BN_new()
    if sig is NULL or r is NULL or s is NULL or ECDSA_SIG_set0(sig, r, s) != 1:
        BN_free(r)
        BN_free(s)
        ECDSA_SIG_free(sig)
        return -1
    c.sig = sig
    c.r = r                          # owned by sig from here on
    c.s = s
    if c.key is NULL or c.work is NULL or EC_KEY_set_group(<EC_KEY *>c.key, p256) != 1:
        return -1
    # Any point will do: it only makes the key own a point that _load writes over.
    return 0 if EC_KEY_set_public_key(<EC_KEY *>c.key, EC_GROUP_get0_generator(p256)) == 1 else -1


cdef void key_cache_free(KeyCache *c) noexcept nogil:
    """Frees what key_cache_init made; a cache of zeroes may be freed, and a freed one again."""
    EC_KEY_free(<EC_KEY *>c.key)
    ECDSA_SIG_free(<ECDSA_SIG *>c.sig)
    BN_CTX_free(<BN_CTX *>c.work)
    memset(c, 0, sizeof(c[0]))


cdef int _load(KeyCache *c, const uint8_t *xy) noexcept nogil:
    """Puts a point into the cache's key, in place. 0, or -1."""
    cdef uint8_t whole[UNCOMPRESSED_POINT_BYTES]
    cdef EC_KEY *key = <EC_KEY *>c.key
    if memcmp(c.loaded, xy, sizeof(c.loaded)) == 0:
        return 0
    memset(c.loaded, 0, sizeof(c.loaded))
    whole[0] = 4
    memcpy(whole + 1, xy, 2 * SCALAR_BYTES)
    # The key is ours alone, so its own point may be written: EC_KEY_set_public_key would free and copy one instead.
    if EC_POINT_oct2point(
        EC_KEY_get0_group(key), <EC_POINT *>EC_KEY_get0_public_key(key), whole, sizeof(whole), <BN_CTX *>c.work
    ) != 1:
        ERR_clear_error()
        return -1
    memcpy(c.loaded, xy, sizeof(c.loaded))
    zl_bump64(&c.loads, 1)
    return 0


# --- signatures ------------------------------------------------------------------------------------------------------

cdef bint _in_range(const uint8_t *scalar, const uint8_t *order) noexcept nogil:
    """0 < scalar < order."""
    cdef int i
    cdef uint8_t any_bit = 0
    for i in range(SCALAR_BYTES):
        any_bit |= scalar[i]
    return any_bit != 0 and memcmp(scalar, order, SCALAR_BYTES) < 0


cdef int signature_verify(
    const SigningKey *key, const uint8_t *digest32, const uint8_t *sig, uint32_t sig_n, KeyCache *cache
) noexcept nogil:
    """Checks 64 bytes r || s against a digest: their form, low S (mandatory on both curves), then the curve itself.

    R_OK, R_NO_KEY, R_SIG_FORM, R_SIG_HIGH_S or R_SIG_INVALID. Clause C3.
    """
    cdef const uint8_t *order = K256_ORDER
    cdef const uint8_t *half = K256_HALF
    if key.type == KEY_P256:
        order = P256_ORDER
        half = P256_HALF
    elif key.type != KEY_K256:
        return R_NO_KEY
    if sig_n != SIGNATURE_SIZE or not _in_range(sig, order) or not _in_range(sig + SCALAR_BYTES, order):
        return R_SIG_FORM
    if memcmp(sig + SCALAR_BYTES, half, SCALAR_BYTES) > 0:
        return R_SIG_HIGH_S
    if key.type == KEY_K256:
        return R_OK if _k256_verify(key.bytes, digest32, sig) else R_SIG_INVALID
    return R_OK if _p256_verify(key.bytes, digest32, sig, cache) else R_SIG_INVALID


cdef bint _k256_verify(const uint8_t *pubkey, const uint8_t *digest32, const uint8_t *sig) noexcept nogil:
    cdef secp256k1_ecdsa_signature parsed
    return (
        secp256k1_ecdsa_signature_parse_compact(secp256k1_context_static, &parsed, sig) == 1
        and secp256k1_ecdsa_verify(secp256k1_context_static, &parsed, digest32, <const secp256k1_pubkey *>pubkey) == 1
    )


cdef bint _p256_verify(const uint8_t *xy, const uint8_t *digest32, const uint8_t *sig, KeyCache *c) noexcept nogil:
    if (
        _load(c, xy) != 0
        or BN_bin2bn(sig, SCALAR_BYTES, <BIGNUM *>c.r) is NULL
        or BN_bin2bn(sig + SCALAR_BYTES, SCALAR_BYTES, <BIGNUM *>c.s) is NULL
    ):
        return False
    cdef int rc = ECDSA_do_verify(digest32, DIGEST_SIZE, <const ECDSA_SIG *>c.sig, <EC_KEY *>c.key)
    if rc < 0:
        ERR_clear_error()            # else the thread's error queue would keep what OpenSSL had to say
    return rc == 1


# --- for tests and tools ---------------------------------------------------------------------------------------------

K256 = KEY_K256
P256 = KEY_P256


def digest(data: bytes) -> bytes:
    """SHA-256 of data, 32 bytes. Any thread."""
    cdef uint8_t out[DIGEST_SIZE]
    sha256(data, <size_t>len(data), out)
    return out[:DIGEST_SIZE]


def is_key(key_type: int, point: bytes) -> bool:
    """Whether the point (33 or 65 bytes) is a usable public key of the curve K256 or P256 (C4). Any thread."""
    cdef SigningKey key
    return key_parse(key_type, point, <uint32_t>len(point), &key) == 0


def is_same_key(key_type: int, point: bytes, other_type: int, other: bytes) -> bool:
    """Whether a usable key is that of another point, as key_is tells. Any thread. ValueError: the first is unusable."""
    cdef SigningKey key
    if key_parse(key_type, point, <uint32_t>len(point), &key) != 0:
        raise ValueError("not a public key of that curve")
    return key_is(&key, other_type, other, <uint32_t>len(other))


def verify(key_type: int, point: bytes, digest32: bytes, sig: bytes) -> str:
    """Label of the reason for which a signature fails (C3), "ok" when it is good. Any thread; not the frame path.

    ValueError: the digest is not 32 bytes long, or the point is no key of that curve.
    """
    cdef SigningKey key
    cdef KeyCache cache
    if len(digest32) != DIGEST_SIZE:
        raise ValueError(f"a digest has {DIGEST_SIZE} bytes, not {len(digest32)}")
    if key_parse(key_type, point, <uint32_t>len(point), &key) != 0:
        raise ValueError("not a public key of that curve")
    if key_cache_init(&cache) != 0:
        key_cache_free(&cache)
        raise MemoryError
    cdef int reason = signature_verify(&key, digest32, sig, <uint32_t>len(sig), &cache)
    key_cache_free(&cache)
    return verdicts.REASONS[reason].label
