"""Copies of a relay's data as of one seq, taken while it runs, and made into a relay's data again."""
