"""Upstream: which hosts there are, how they are dialled, what their connections carry."""
