"""The resource manager's streams: a node's session, and the logs that pass through it."""

from loomos.resource_manager.stream.logs import follow_job_logs
from loomos.resource_manager.stream.session import node_session
from loomos.resource_manager.stream.sessions import watch

__all__ = ["follow_job_logs", "node_session", "watch"]
