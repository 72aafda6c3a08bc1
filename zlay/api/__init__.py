"""HTTP: public XRPC, the firehose's upgrade, admin, health and metrics."""
