"""The face of the platform: the `loomos` command."""
