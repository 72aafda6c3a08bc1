"""Benchmarks (design 16): every figure beside its own bound, taken in the same run on the same bytes.

`python -m zlay.bench NAME`, or `scripts/bench NAME` from a checkout. One module for each benchmark, with `DESCRIPTION`,
`add_arguments(parser)` and `measure(arguments) -> Report`; `cli` holds the table of them.
"""
