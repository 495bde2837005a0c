"""The backends of this package; each knows the contract, none knows another."""
