"""Signing keys of both curves, with deterministic signatures."""

from libc.stdint cimport uint8_t

cdef extern from "openssl/ec.h" nogil:
    ctypedef struct EC_KEY:
        pass

cdef enum:
    SIGNATURE_SIZE = 64

cdef class SigningKey:
    # One thread. Owns `ec` (P-256 only), freed with the object.
    cdef readonly str curve
    cdef readonly bytes point
    cdef bint is_p256
    cdef uint8_t secret[32]
    cdef EC_KEY *ec
    cdef _make_k256(self, uint8_t *point)
    cdef _make_p256(self, uint8_t *point)
    cdef void sign_digest(self, const uint8_t *digest, uint8_t *out) noexcept

cdef void negate_s(uint8_t *signature, bint is_p256) noexcept nogil
