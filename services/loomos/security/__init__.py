"""Security decides who exists, who may do what where, and within which limits.

Shard: one organisation; `platform` is the administrators' own and holds signing keys and nodes.
Streams: organisations, projects, users, API keys, join tokens, signing keys, quota subjects.
Hears nobody. Everybody hears it: `loom.kit.authorize` follows its log in every process.
"""
