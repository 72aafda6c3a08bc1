"""Asking other servers by HTTP: one small client for directories and PDS hosts."""
