"""Decides which checkpoints a project keeps, and knows which of them are whole.

Streams `checkpoint-…` and the project's own, in the shard of a project. It hears the scheduler
(what runs wrote, from where jobs resume) and tells nobody but itself; its effect reads and deletes
files of the artifact store.
"""
