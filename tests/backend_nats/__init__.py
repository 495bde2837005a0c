"""The example of a backend outside the package, on a real NATS server."""
