"""Carry out operations on sessions over any backend, each exactly once.

``rules`` decides (plain functions, no waiting), ``fold`` applies a key's operations to
what was loaded. ``batched`` waits: it gathers, loads, commits, retries; ``reader`` is
its read side, ``calls`` what both ask of the backend, ``gate`` counts what is under
way. ``inline`` does the same without waiting, for a backend that keeps its records in
this process. The store (above) picks one of the two; both talk to the contract only.
"""
