"""Data: decides which events of users and outside systems enter the log, and by which schemas.

Streams: `<organisation>/<the user's stream>`, `<organisation>/schemas/<type>`, `batch-…`. Hears
nobody and tells nobody; loomdb follows its topic (ADR 15 says why it is a service of its own).
"""
