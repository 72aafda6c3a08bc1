"""zlay: an AT Protocol relay for free-threaded CPython."""
