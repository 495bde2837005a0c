"""What the adapters keep, and under which keys: one module for each framework.

``adapters`` keep it, ``cli.imports`` make the same of what other libraries have kept.
No framework is imported here, so neither side needs one that it does not serve. What
stands here is found again in stores of last year: it is never changed, only added to.
"""
