"""Slow, obvious implementations of the formats: they share no line with `zlay/_fast` or `zlay/sim`."""
