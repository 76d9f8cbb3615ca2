"""The shell: all I/O that a service process does beyond the log itself."""
