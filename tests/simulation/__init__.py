"""The real engine under a seeded simulation: virtual time, faults, checked histories.

``schedule`` draws one run from a seed, on one of the ``plans``: several processes, each
with stores, callers and a clock of its own, over one ``server`` that crashes and is up
again with what was durable. Each reaches it through a ``faulty`` network, on which a
``request`` travels by itself along a ``road``; all of it in a ``world`` on the virtual
time of ``loop``. ``history`` (of the conformance kit) notes each call, its neighbours
``order`` and ``linearizability`` judge the answers, and so do ``moments`` and
``fences``, which know what was there; ``reasons`` judges who failed. ``locks`` plays
the same for one hot lock. What was played is added up in a ``report``.
``mutants`` are faults planted in the product, and in this server, to prove that the
judges see them; ``hunt`` catches one.

A failure says how to see it again (``replay``), event by event:
``python -m tests.simulation SEED``. For hours of new seeds there is ``soak``:
``python -m tests.simulation --minutes 60``.
"""
