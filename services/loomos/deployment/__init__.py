"""Decides which model versions exist and where each is served.

Streams `model-…` and `deployment-…` in the shard of a project. Told by clients, by the scheduler's
reactor (a finished job's model) and by its own effect; tells the runtime what to serve.
"""
