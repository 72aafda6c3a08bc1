"""Tests of zlay.eventlog."""
