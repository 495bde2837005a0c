"""The proof that a backend keeps the contract, for whoever writes one."""
