"""Memory as an experiment anyone can run: choose the allocator, trim it, see who holds what."""
