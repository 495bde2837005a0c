"""Side by side, alternating, in one run: ratios that a noisy machine cannot fake.

``python -m benchmarks`` prints every table, ``python -m benchmarks NAME`` one. A module
for each question: ``memory``, ``footprint``, ``sqlite``, ``slowdisk``, ``neighbour``,
``postgres``, ``startup``.
"""
