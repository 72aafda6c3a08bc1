"""What libFuzzer gives to a target and its mutators. One thread."""

from libc.stdint cimport uint8_t

cdef extern from *:
    """
    #include <stddef.h>
    #include <stdint.h>
    size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
    /* A promise that was broken: a report with a stack, not a result. */
    #define zl_promise(holds) do { if (!(holds)) __builtin_trap(); } while (0)
    """
    size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size) noexcept nogil
    void zl_promise(bint holds) noexcept nogil
