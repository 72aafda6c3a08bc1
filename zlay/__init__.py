"""zlay: an AT Protocol relay for free-threaded CPython."""

__version__ = "0.1.0"
