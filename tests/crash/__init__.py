"""Crash safety, proven: SIGKILL at every named point, and power loss at every moment."""
