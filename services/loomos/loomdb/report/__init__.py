"""Makes compliance reports: rows of the audit index, each with the proof that its record is signed.

1. A report stands on a *cut*, the signed sizes of all trees, and says it. For the same question and
   the same cut it has the same bytes, whenever and wherever it is made: nothing in it is of its own
   moment.
2. All three formats are made at once; the manifest, a note signed by the notary, names their
   digests. HTML and PDF carry the JSON, so that each of them can be verified alone.
3. It shows what the index shows: personal fields stay sealed in it.
"""
