"""The scheduler: decides which job runs where and when, and says why.

Streams: `job-…` (jobs), `round-…` (rounds), `dryrun-…` (dry runs); shard: the cluster. Hears the
resource manager of its cluster (nodes, allocations) and security (projects, quotas, clearances).
Tells the resource manager (GrantAllocations, ReleaseAllocation).
"""
