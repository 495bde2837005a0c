"""Real servers for the tests: private, on free loopback ports, gone afterwards."""
