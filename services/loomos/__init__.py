"""The cloth: one folder a process type."""
