"""What plugs a store into a framework: one module for each, imported by name.

They translate ids and calls, and decide nothing that the store decides; what they keep,
and under which keys, ``botsessions.kept`` says. None closes a store that it was given.
Adapters do not know each other.
"""
