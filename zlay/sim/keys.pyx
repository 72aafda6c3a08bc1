# distutils: libraries = secp256k1 crypto
# distutils: define_macros = OPENSSL_SUPPRESS_DEPRECATED=1
"""Keys of the simulated accounts: K-256 by libsecp256k1, P-256 by OpenSSL, nonces by RFC 6979 for both.

Promises: the same key and digest give the same 64 bytes r||s, low-S (protocol C3). Speed: about 25 us a signature.
Assumes: one thread. Secrets are made from seeds and protect nothing.
"""

from libc.string cimport memcmp, memcpy, memset

from zlay.sim.sha cimport SHA256_CTX, SHA256_Final, SHA256_Init, SHA256_Update, sha256

cdef extern from "secp256k1.h" nogil:
    ctypedef struct secp256k1_context:
        pass
    ctypedef struct secp256k1_pubkey:
        pass
    ctypedef struct secp256k1_ecdsa_signature:
        pass
    unsigned int SECP256K1_CONTEXT_SIGN
    unsigned int SECP256K1_EC_COMPRESSED
    secp256k1_context *secp256k1_context_create(unsigned int flags)
    int secp256k1_ec_seckey_verify(const secp256k1_context *ctx, const unsigned char *seckey)
    int secp256k1_ec_pubkey_create(const secp256k1_context *ctx, secp256k1_pubkey *pubkey, const unsigned char *seckey)
    int secp256k1_ec_pubkey_serialize(
        const secp256k1_context *ctx, unsigned char *output, size_t *outputlen, const secp256k1_pubkey *pubkey,
        unsigned int flags,
    )
    int secp256k1_ecdsa_sign(
        const secp256k1_context *ctx, secp256k1_ecdsa_signature *sig, const unsigned char *msghash32,
        const unsigned char *seckey, void *noncefp, const void *ndata,
    )
    int secp256k1_ecdsa_signature_serialize_compact(
        const secp256k1_context *ctx, unsigned char *output64, const secp256k1_ecdsa_signature *sig,
    )

cdef extern from "openssl/bn.h" nogil:
    ctypedef struct BIGNUM:
        pass
    ctypedef struct BN_CTX:
        pass
    BN_CTX *BN_CTX_new()
    BIGNUM *BN_new()
    BIGNUM *BN_bin2bn(const unsigned char *s, int len, BIGNUM *ret)
    int BN_bn2binpad(const BIGNUM *a, unsigned char *to, int tolen)
    int BN_nnmod(BIGNUM *r, const BIGNUM *a, const BIGNUM *m, BN_CTX *ctx)
    BIGNUM *BN_mod_inverse(BIGNUM *r, const BIGNUM *a, const BIGNUM *n, BN_CTX *ctx)

cdef extern from "openssl/ec.h" nogil:
    ctypedef struct EC_GROUP:
        pass
    ctypedef struct EC_POINT:
        pass
    int POINT_CONVERSION_COMPRESSED
    EC_KEY *EC_KEY_new_by_curve_name(int nid)
    void EC_KEY_free(EC_KEY *key)
    const EC_GROUP *EC_KEY_get0_group(const EC_KEY *key)
    int EC_KEY_set_private_key(EC_KEY *key, const BIGNUM *prv)
    int EC_KEY_set_public_key(EC_KEY *key, const EC_POINT *pub)
    EC_POINT *EC_POINT_new(const EC_GROUP *group)
    void EC_POINT_free(EC_POINT *point)
    int EC_POINT_mul(
        const EC_GROUP *group, EC_POINT *r, const BIGNUM *n, const EC_POINT *q, const BIGNUM *m, BN_CTX *ctx,
    )
    int EC_POINT_get_affine_coordinates(
        const EC_GROUP *group, const EC_POINT *p, BIGNUM *x, BIGNUM *y, BN_CTX *ctx,
    )
    size_t EC_POINT_point2oct(
        const EC_GROUP *group, const EC_POINT *p, int form, unsigned char *buf, size_t len, BN_CTX *ctx,
    )

cdef extern from "openssl/obj_mac.h" nogil:
    int NID_X9_62_prime256v1

cdef extern from "openssl/ecdsa.h" nogil:
    ctypedef struct ECDSA_SIG:
        pass
    ECDSA_SIG *ECDSA_do_sign_ex(
        const unsigned char *dgst, int dgst_len, const BIGNUM *kinv, const BIGNUM *rp, EC_KEY *eckey,
    )
    void ECDSA_SIG_get0(const ECDSA_SIG *sig, const BIGNUM **pr, const BIGNUM **ps)
    void ECDSA_SIG_free(ECDSA_SIG *sig)

_ORDER_K256 = bytes.fromhex("FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141")
_ORDER_P256 = bytes.fromhex("FFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_MULTICODEC = {"k256": b"\xe7\x01", "p256": b"\x80\x24"}  # C4

# Made once at import, never freed, used by the one thread of the simulation.
cdef uint8_t order_k256[32]
cdef uint8_t order_p256[32]
cdef secp256k1_context *secp = secp256k1_context_create(SECP256K1_CONTEXT_SIGN)
cdef BN_CTX *bn_ctx = BN_CTX_new()
cdef BIGNUM *bn_order = NULL
cdef BIGNUM *bn_k = BN_new()
cdef BIGNUM *bn_kinv = BN_new()
cdef BIGNUM *bn_r = BN_new()
cdef BIGNUM *bn_x = BN_new()


cdef void set_order(bytes order, uint8_t *out):
    memcpy(out, <const char *> order, 32)


set_order(_ORDER_K256, order_k256)
set_order(_ORDER_P256, order_p256)
bn_order = BN_bin2bn(order_p256, 32, NULL)


cdef void hmac_sha256(const uint8_t *key, const uint8_t *a, size_t an, const uint8_t *b, size_t bn,
                      uint8_t *out) noexcept nogil:
    """HMAC-SHA-256 of a||b under a 32-byte key. `out` may be the key or a."""
    cdef SHA256_CTX c
    cdef uint8_t pad[64]
    cdef uint8_t inner[32]
    cdef int i
    for i in range(64):
        pad[i] = (key[i] if i < 32 else 0) ^ 0x36
    SHA256_Init(&c)
    SHA256_Update(&c, pad, 64)
    SHA256_Update(&c, a, an)
    SHA256_Update(&c, b, bn)
    SHA256_Final(inner, &c)
    for i in range(64):
        pad[i] ^= 0x36 ^ 0x5C
    SHA256_Init(&c)
    SHA256_Update(&c, pad, 64)
    SHA256_Update(&c, inner, 32)
    SHA256_Final(out, &c)


cdef const uint8_t *order_of(bint is_p256) noexcept nogil:
    if is_p256:
        return order_p256
    return order_k256


cdef bint in_range(const uint8_t *k, const uint8_t *order) noexcept nogil:
    """0 < k < order, both 32 bytes big endian."""
    cdef int i
    for i in range(32):
        if k[i]:
            return memcmp(k, order, 32) < 0
    return False


cdef void nonce_rfc6979(const uint8_t *secret, const uint8_t *digest, uint8_t *k) noexcept nogil:
    """The nonce of RFC 6979 section 3.2 for P-256 and SHA-256."""
    cdef uint8_t seed[65]
    cdef uint8_t v[32]
    cdef uint8_t message[97]
    cdef uint8_t zero = 0
    cdef int i
    # message = V || round || int2octets(x) || bits2octets(h1)
    memcpy(message + 33, secret, 32)
    BN_bin2bn(digest, 32, bn_x)
    BN_nnmod(bn_x, bn_x, bn_order, bn_ctx)
    BN_bn2binpad(bn_x, message + 65, 32)
    memset(v, 1, 32)
    memset(k, 0, 32)
    for i in range(2):
        memcpy(message, v, 32)
        message[32] = i
        hmac_sha256(k, message, 97, NULL, 0, k)
        hmac_sha256(k, v, 32, NULL, 0, v)
    memcpy(seed, k, 32)
    while True:
        hmac_sha256(seed, v, 32, NULL, 0, v)
        if in_range(v, order_p256):
            memcpy(k, v, 32)
            return
        hmac_sha256(seed, v, 32, &zero, 1, seed)
        hmac_sha256(seed, v, 32, NULL, 0, v)


cdef bint is_high_s(const uint8_t *s, const uint8_t *order) noexcept nogil:
    """s > order / 2: 2s > order, compared from the top."""
    cdef int i
    cdef int doubled
    for i in range(32):
        doubled = (order[i] >> 1) | ((order[i - 1] & 1) << 7 if i else 0)
        if s[i] != doubled:
            return s[i] > doubled
    return False  # both orders are odd: s equal to the halved order is still low


cdef void negate_s(uint8_t *signature, bint is_p256) noexcept nogil:
    """s := order - s, in place: the other valid form of the same signature."""
    cdef const uint8_t *order = order_of(is_p256)
    cdef uint8_t *s = signature + 32
    cdef int borrow = 0
    cdef int difference
    cdef int i
    for i in range(31, -1, -1):
        difference = <int> order[i] - s[i] - borrow
        borrow = 1 if difference < 0 else 0
        s[i] = <uint8_t> (difference & 0xFF)


cdef bint sign_p256(EC_KEY *ec, const uint8_t *secret, const uint8_t *digest, uint8_t *out) noexcept nogil:
    cdef const EC_GROUP *group = EC_KEY_get0_group(ec)
    cdef EC_POINT *point = EC_POINT_new(group)
    cdef ECDSA_SIG *signature
    cdef const BIGNUM *r
    cdef const BIGNUM *s
    cdef uint8_t k[32]
    nonce_rfc6979(secret, digest, k)
    BN_bin2bn(k, 32, bn_k)
    EC_POINT_mul(group, point, bn_k, NULL, NULL, bn_ctx)
    EC_POINT_get_affine_coordinates(group, point, bn_x, NULL, bn_ctx)
    EC_POINT_free(point)
    BN_nnmod(bn_r, bn_x, bn_order, bn_ctx)
    BN_mod_inverse(bn_kinv, bn_k, bn_order, bn_ctx)
    signature = ECDSA_do_sign_ex(digest, 32, bn_kinv, bn_r, ec)
    if signature == NULL:
        return False
    ECDSA_SIG_get0(signature, &r, &s)
    BN_bn2binpad(r, out, 32)
    BN_bn2binpad(s, out + 32, 32)
    ECDSA_SIG_free(signature)
    if is_high_s(out + 32, order_p256):
        negate_s(out, True)
    return True


cdef class SigningKey:
    """A private key on curve `k256` or `p256`: the SHA-256 of a seed, or with `raw` the 32 bytes given. One thread."""

    def __cinit__(self, str curve, bytes seed not None, bint raw=False):
        cdef uint8_t point[33]
        cdef const uint8_t *order
        if curve not in _MULTICODEC:
            raise ValueError(f"no such curve: {curve}")
        self.curve = curve
        self.is_p256 = curve == "p256"
        order = order_of(self.is_p256)
        if raw and len(seed) != 32:
            raise ValueError("a raw secret has 32 bytes")
        if raw:
            memcpy(self.secret, <const char *> seed, 32)
        else:
            sha256(<const char *> seed, len(seed), self.secret)
        while not in_range(self.secret, order):
            sha256(self.secret, 32, self.secret)
        if self.is_p256:
            self._make_p256(point)
        else:
            self._make_k256(point)
        self.point = point[:33]

    cdef _make_k256(self, uint8_t *point):
        cdef secp256k1_pubkey public
        cdef size_t n = 33
        if not secp256k1_ec_pubkey_create(secp, &public, self.secret):
            raise ValueError("libsecp256k1 refuses the key")
        secp256k1_ec_pubkey_serialize(secp, point, &n, &public, SECP256K1_EC_COMPRESSED)

    cdef _make_p256(self, uint8_t *point):
        cdef const EC_GROUP *group
        cdef EC_POINT *public
        self.ec = EC_KEY_new_by_curve_name(NID_X9_62_prime256v1)
        if self.ec == NULL:
            raise MemoryError
        group = EC_KEY_get0_group(self.ec)
        BN_bin2bn(self.secret, 32, bn_k)
        public = EC_POINT_new(group)
        EC_POINT_mul(group, public, bn_k, NULL, NULL, bn_ctx)
        EC_POINT_point2oct(group, public, POINT_CONVERSION_COMPRESSED, point, 33, bn_ctx)
        EC_KEY_set_private_key(self.ec, bn_k)
        EC_KEY_set_public_key(self.ec, public)
        EC_POINT_free(public)

    def __dealloc__(self):
        if self.ec != NULL:
            EC_KEY_free(self.ec)

    cdef void sign_digest(self, const uint8_t *digest, uint8_t *out) noexcept:
        """64 bytes r||s, low-S, over a SHA-256."""
        cdef secp256k1_ecdsa_signature signature
        if self.is_p256:
            sign_p256(self.ec, self.secret, digest, out)
            return
        secp256k1_ecdsa_sign(secp, &signature, digest, self.secret, NULL, NULL)
        secp256k1_ecdsa_signature_serialize_compact(secp, out, &signature)

    def sign(self, bytes message not None):
        """The 64-byte signature of SHA-256(message)."""
        cdef uint8_t digest[32]
        cdef uint8_t out[64]
        sha256(<const char *> message, len(message), digest)
        self.sign_digest(digest, out)
        return bytes(out[:64])

    @property
    def secret_bytes(self):
        """The 32 bytes of the private key, for tools that check signatures elsewhere."""
        return bytes(self.secret[:32])

    @property
    def multikey(self):
        """`z` and base58btc of codec and compressed point, as it stands in a DID document (C4)."""
        return "z" + base58(_MULTICODEC[self.curve] + self.point)

    @property
    def did_key(self):
        """The key as a `did:key:` string."""
        return "did:key:" + self.multikey


def base58(bytes data not None):
    """base58btc of data, without a multibase prefix."""
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_BASE58[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))
