"""What callers did and were told, and whether all of it can be true.

``history`` says what a call is, ``recording`` writes calls down; ``order`` and
``linearizability`` judge sessions that list their changes, ``counters`` those that
count, ``versions`` and ``registers`` the loads and commits of a backend; ``search``
tries orders for two of them, and ``judge`` has the right one for each key. ``shrink``
leaves the few calls that show what is wrong, and ``timeline`` draws them. Nothing here
knows a backend or a check.
"""
