"""What is asked of a backend: coroutine functions, their demand in the docstring.

``contract`` (one user at a time), ``contention`` (many at once), ``endings`` (what is
cut off), ``clocks``, ``abilities`` (what a backend may be able to do), ``laws`` (of the
store above it). ``run`` has them all in their order.
"""
