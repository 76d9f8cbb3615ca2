"""The node agent: runs jobs under shims, reports facts, publishes GPU telemetry.

It decides nothing: orders come down one stream from the resource manager, full state goes up.
"""
