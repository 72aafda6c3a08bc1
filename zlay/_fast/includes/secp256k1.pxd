"""What the core takes from libsecp256k1. Verification needs the static context only: no allocation, any thread."""

from libc.stdint cimport uint8_t

cdef extern from "secp256k1.h" nogil:
    ctypedef struct secp256k1_context:
        pass
    ctypedef struct secp256k1_pubkey:
        uint8_t data[64]
    ctypedef struct secp256k1_ecdsa_signature:
        uint8_t data[64]
    const secp256k1_context *secp256k1_context_static
    void secp256k1_selftest()
    int secp256k1_ec_pubkey_parse(
        const secp256k1_context *ctx, secp256k1_pubkey *pubkey, const uint8_t *input, size_t inputlen
    )
    unsigned int SECP256K1_EC_COMPRESSED, SECP256K1_EC_UNCOMPRESSED
    int secp256k1_ec_pubkey_serialize(
        const secp256k1_context *ctx, uint8_t *output, size_t *outputlen, const secp256k1_pubkey *pubkey,
        unsigned int flags,
    )
    int secp256k1_ecdsa_signature_parse_compact(
        const secp256k1_context *ctx, secp256k1_ecdsa_signature *sig, const uint8_t *input64
    )
    int secp256k1_ecdsa_verify(
        const secp256k1_context *ctx,
        const secp256k1_ecdsa_signature *sig,
        const uint8_t *msghash32,
        const secp256k1_pubkey *pubkey,
    )
