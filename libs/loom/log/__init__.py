"""LoomDB's core: all of Kafka, and the truth about it (design rules 1 to 8)."""
