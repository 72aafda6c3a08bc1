/* A stripe of striped counters per thread: threads get numbers in turn, so that few share a cache line.
 *
 * Stripes are shared between threads whose numbers are equal modulo ZL_STRIPES: always use atomic adds on them.
 */
#ifndef ZL_STRIPE_H
#define ZL_STRIPE_H

#include <stdint.h>

#define ZL_STRIPES 16

static uint32_t zl_stripes_given = 0;
static __thread uint32_t zl_my_stripe = UINT32_MAX;

static inline uint32_t zl_stripe(void) {
    uint32_t mine = zl_my_stripe;
    if (__builtin_expect(mine == UINT32_MAX, 0)) {
        mine = __atomic_fetch_add(&zl_stripes_given, 1, __ATOMIC_RELAXED) % ZL_STRIPES;
        zl_my_stripe = mine;
    }
    return mine;
}

#endif
