"""Tests of zlay.firehose."""
