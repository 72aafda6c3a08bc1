"""What the core takes from OpenSSL's libcrypto, in the order of its headers.

These are OpenSSL's low-level calls. The EVP ones fetch an algorithm and allocate on every digest (some 220 ns before
the first byte), and take a P-256 signature only as DER; the low-level ones work on a struct of ours and on r and s.
"""

from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #define OPENSSL_SUPPRESS_DEPRECATED
    """

cdef extern from "openssl/sha.h" nogil:
    ctypedef struct SHA256_CTX:
        unsigned int h[8]
    int SHA256_Init(SHA256_CTX *c)
    int SHA256_Update(SHA256_CTX *c, const void *data, size_t len)
    int SHA256_Final(uint8_t *md, SHA256_CTX *c)
    void SHA256_Transform(SHA256_CTX *c, const uint8_t *block64)

cdef extern from "openssl/bn.h" nogil:
    ctypedef struct BIGNUM:
        pass
    ctypedef struct BN_CTX:
        pass
    BIGNUM *BN_new()
    void BN_free(BIGNUM *a)
    BIGNUM *BN_bin2bn(const uint8_t *s, int len, BIGNUM *ret)
    BN_CTX *BN_CTX_new()
    void BN_CTX_free(BN_CTX *c)

cdef extern from "openssl/obj_mac.h" nogil:
    int NID_X9_62_prime256v1

cdef extern from "openssl/ec.h" nogil:
    int POINT_CONVERSION_UNCOMPRESSED
    ctypedef struct EC_GROUP:
        pass
    ctypedef struct EC_POINT:
        pass
    ctypedef struct EC_KEY:
        pass
    EC_GROUP *EC_GROUP_new_by_curve_name(int nid)
    const EC_POINT *EC_GROUP_get0_generator(const EC_GROUP *group)
    EC_POINT *EC_POINT_new(const EC_GROUP *group)
    void EC_POINT_free(EC_POINT *point)
    size_t EC_POINT_point2oct(
        const EC_GROUP *group, const EC_POINT *p, int form, uint8_t *buf, size_t len, BN_CTX *ctx
    )
    int EC_POINT_oct2point(const EC_GROUP *group, EC_POINT *p, const uint8_t *buf, size_t len, BN_CTX *ctx)
    EC_KEY *EC_KEY_new()
    void EC_KEY_free(EC_KEY *key)
    int EC_KEY_set_group(EC_KEY *key, const EC_GROUP *group)
    const EC_GROUP *EC_KEY_get0_group(const EC_KEY *key)
    int EC_KEY_set_public_key(EC_KEY *key, const EC_POINT *pub)
    const EC_POINT *EC_KEY_get0_public_key(const EC_KEY *key)
    ctypedef struct ECDSA_SIG:
        pass
    ECDSA_SIG *ECDSA_SIG_new()
    void ECDSA_SIG_free(ECDSA_SIG *sig)
    int ECDSA_SIG_set0(ECDSA_SIG *sig, BIGNUM *r, BIGNUM *s)
    int ECDSA_do_verify(const uint8_t *dgst, int dgst_len, const ECDSA_SIG *sig, EC_KEY *eckey)

cdef extern from "openssl/err.h" nogil:
    void ERR_clear_error()
