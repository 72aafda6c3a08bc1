"""A simulated network, a relay and a strict consumer on one machine: the first command of a newcomer."""
