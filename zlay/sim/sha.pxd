"""SHA-256 by libcrypto's low-level functions: the one-shot call fetches its algorithm anew each time in OpenSSL 3."""

from libc.stdint cimport uint8_t

cdef extern from "openssl/sha.h" nogil:
    ctypedef struct SHA256_CTX:
        pass
    int SHA256_Init(SHA256_CTX *c)
    int SHA256_Update(SHA256_CTX *c, const void *data, size_t n)
    int SHA256_Final(unsigned char *md, SHA256_CTX *c)

cdef inline void sha256(const void *p, size_t n, uint8_t *out) noexcept nogil:
    cdef SHA256_CTX c
    SHA256_Init(&c)
    SHA256_Update(&c, p, n)
    SHA256_Final(out, &c)
