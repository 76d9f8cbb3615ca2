"""A small witness for hash trees, to run where the log's owner has no hand.

It remembers, for each log it knows, the largest checkpoint it has cosigned, and cosigns another one
only with the proof that the tree merely grew (C2SP tlog-witness). It decides nothing in LoomOS and
reads nothing of it: it needs no Kafka, no Postgres and no record.
"""
