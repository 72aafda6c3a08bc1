"""The random numbers of the simulation (splitmix64). One thread per object; the same seed gives the same numbers."""


cdef class Rng:
    """A stream of random numbers from a 64-bit seed."""

    def __cinit__(self, seed):
        self.state = seed & 0xFFFFFFFFFFFFFFFF

    def below(self, uint64_t n):
        """A number from 0 to n - 1; n is at least 1."""
        return self.next_below(n)

    def uniform(self):
        """A float from 0 up to, not including, 1."""
        return (self.next64() >> 11) / 9007199254740992.0

    def take(self, n):
        """n random bytes."""
        return b"".join((<object> self.next64()).to_bytes(8, "big") for _ in range((n + 7) // 8))[:n]
