"""Kafka, Postgres and every service on this machine, supervised: what `loomos up` starts."""
