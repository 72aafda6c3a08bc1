"""Tests that ask an independent implementation, in an ordinary interpreter or in Node, for its opinion."""
