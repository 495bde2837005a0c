"""Long runs on real servers, with faults by schedule and every call written down.

``python -m tests.soak --minutes 10`` plays rounds: several processes use the same
sessions while a seeded schedule kills, cuts, stops and fills things; then all that the
callers were told is judged, and a page with figures is written. Rounds have sessions of
their own, so that histories stay short and memory stays the same over hours.

Rooms: ``places`` (servers and what can be done to them), ``worker`` (one process),
``caller`` (what it does), ``journal`` (what it writes down), ``judging`` (what is wrong
with that), ``figures`` (what is counted), ``rounds`` (who plays them), ``page`` and
``summary`` (what a person reads), ``wrong`` (backends that must be found out).
"""
