"""The ops of a #commit: nothing of it is for Python."""
