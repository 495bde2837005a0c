"""The real engine under a seeded simulation: virtual time, faults, checked histories.

``schedule`` draws one run from a seed, on one of the ``plans``: several processes, each
a ``SessionStore`` with its callers, over one ``server`` that each reaches through a
``faulty`` network, all of it in a ``world`` on the virtual time of ``loop``.
``history`` notes each call; ``order``, ``linearizability`` and ``moments`` judge the
answers. ``mutants`` are faults planted in the product, to prove that the judges see
them; ``hunt`` catches one.

To play a seed again, event by event: ``python -m tests.simulation SEED``.
"""
