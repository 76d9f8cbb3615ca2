"""The resource manager: nodes, GPUs and allocations; the only one who says that a place is taken.

Streams: `node-…`, `allocation-…`; shard: the cluster. Is told by the scheduler (GrantAllocations,
ReleaseAllocation), by node agents through their sessions, and by telemetry (ReportNodeHealth).
"""
