"""Whole programs against each other: real PDSes, real consumers, the relay as a child process."""
