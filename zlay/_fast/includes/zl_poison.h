/* Memory that must not be touched now, told to AddressSanitizer: bump allocators hide their bounds from it otherwise.
 *
 * Nothing at all in an ordinary build. ZL_REDZONE: bytes that a bump allocator leaves out behind what it gives.
 */
#ifndef ZL_POISON_H
#define ZL_POISON_H

#include <stddef.h>

#if defined(__SANITIZE_ADDRESS__)
#define ZL_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ZL_ASAN 1
#endif
#endif

#ifdef ZL_ASAN
#include <sanitizer/asan_interface.h>
#define ZL_REDZONE 16
static inline void zl_poison(const void *p, size_t n) { __asan_poison_memory_region(p, n); }
static inline void zl_unpoison(const void *p, size_t n) { __asan_unpoison_memory_region(p, n); }
#else
#define ZL_REDZONE 0
static inline void zl_poison(const void *p, size_t n) { (void)p, (void)n; }
static inline void zl_unpoison(const void *p, size_t n) { (void)p, (void)n; }
#endif

#endif
