"""zlay's tests: they mirror `zlay/`, plus end-to-end tests with real servers, an oracle and slow references."""
