"""Fuzzing of the compiled core with libFuzzer (`scripts/fuzz`, docs/testing.md).

A target is a Cython file `target_NAME.pyx` that calls C entry points of `zlay/_fast` on the bytes it is given, and
stops the process where a promise of theirs is broken. `build.py` compiles it, with the very C of the product's topics
it needs, into one program with an interpreter inside that only imports them: no Python runs per input.
"""
