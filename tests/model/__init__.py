"""A model of the log's write path (ADR 3): every interleaving of small worlds, long random walks.

`python -m tests.model --seed N --steps M` walks for longer than the tests do.
"""
