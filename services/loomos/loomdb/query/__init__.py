"""Reads the audit index; foreign events are answered like unknown ones."""

from loomos.loomdb.query.alert import (
    get_alert_rule,
    list_alert_rules,
    list_alerts,
    list_notify_targets,
)
from loomos.loomdb.query.analytics import analyze_events
from loomos.loomdb.query.causality import walk_causes
from loomos.loomdb.query.command import find_command
from loomos.loomdb.query.deleted import allowing
from loomos.loomdb.query.events import cursor_of, get_event, list_events, place_of
from loomos.loomdb.query.keys import (
    dead_keys,
    get_erasure,
    list_erasures,
    preview_erasure,
)
from loomos.loomdb.query.moment import get_moment
from loomos.loomdb.query.proof import offsets_of, places_of
from loomos.loomdb.query.retention import get_log_retention, list_archive
from loomos.loomdb.query.search import search_events
from loomos.loomdb.query.sql import run_audit_sql
from loomos.loomdb.query.story import get_story
from loomos.loomdb.query.subscription import (
    get_subscription,
    list_dead_deliveries,
    list_feeds,
    list_subscriptions,
)

__all__ = [
    "allowing",
    "analyze_events",
    "cursor_of",
    "dead_keys",
    "find_command",
    "get_alert_rule",
    "get_erasure",
    "get_event",
    "get_log_retention",
    "get_moment",
    "get_story",
    "get_subscription",
    "list_alert_rules",
    "list_alerts",
    "list_archive",
    "list_dead_deliveries",
    "list_erasures",
    "list_events",
    "list_feeds",
    "list_notify_targets",
    "list_subscriptions",
    "offsets_of",
    "place_of",
    "places_of",
    "preview_erasure",
    "run_audit_sql",
    "search_events",
    "walk_causes",
]
