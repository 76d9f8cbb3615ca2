"""The stand-alone verifier: one file that needs Python's standard library and nothing of LoomOS."""
