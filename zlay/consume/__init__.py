"""`zlay consume`: a small consumer of any relay's firehose, for people. Shares the core's decoding and verification."""
