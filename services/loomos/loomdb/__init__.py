"""LoomDB's audit side: reads of the trail of all events, stories of causes, proofs.

Stream: an organisation's trail of reads. Hears nobody; its index follows every deciding topic.
Beside it runs the notary, which seals every partition and publishes to `loomos.seals`.
"""
