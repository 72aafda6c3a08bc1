/* SipHash-2-4 (Aumasson, Bernstein): a keyed 64-bit hash that peers cannot aim at. Pure function, any thread. */
#ifndef ZL_SIPHASH_H
#define ZL_SIPHASH_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define ZL_SIP_ROTL(x, b) (((x) << (b)) | ((x) >> (64 - (b))))
#define ZL_SIP_ROUND                                                                              \
    do {                                                                                          \
        v0 += v1; v1 = ZL_SIP_ROTL(v1, 13); v1 ^= v0; v0 = ZL_SIP_ROTL(v0, 32);                   \
        v2 += v3; v3 = ZL_SIP_ROTL(v3, 16); v3 ^= v2;                                             \
        v0 += v3; v3 = ZL_SIP_ROTL(v3, 21); v3 ^= v0;                                             \
        v2 += v1; v1 = ZL_SIP_ROTL(v1, 17); v1 ^= v2; v2 = ZL_SIP_ROTL(v2, 32);                   \
    } while (0)

static inline uint64_t zl_siphash24(uint64_t k0, uint64_t k1, const uint8_t *p, size_t n) {
    uint64_t v0 = k0 ^ 0x736f6d6570736575ull, v1 = k1 ^ 0x646f72616e646f6dull;
    uint64_t v2 = k0 ^ 0x6c7967656e657261ull, v3 = k1 ^ 0x7465646279746573ull;
    uint64_t m, last = (uint64_t)n << 56;
    for (; n >= 8; p += 8, n -= 8) {
        memcpy(&m, p, 8);
        v3 ^= m;
        ZL_SIP_ROUND;
        ZL_SIP_ROUND;
        v0 ^= m;
    }
    for (size_t i = 0; i < n; i++) last |= (uint64_t)p[i] << (8 * i);
    v3 ^= last;
    ZL_SIP_ROUND;
    ZL_SIP_ROUND;
    v0 ^= last;
    v2 ^= 0xff;
    for (int i = 0; i < 4; i++) ZL_SIP_ROUND;
    return v0 ^ v1 ^ v2 ^ v3;
}

#endif
