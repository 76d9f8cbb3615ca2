"""What a witness answers to `add-checkpoint` (C2SP tlog-witness), whoever asks.

1. Only a tree that is signed by a key it trusts for that origin, and that is proved to continue the
   one it cosigned last, is cosigned.
2. What it knows already is told with 409 and the size, so that a log finds its way back by itself.
"""

from typing import NamedTuple

from loom.log.cosign import Submission
from loom.log.merkle import EMPTY_ROOT, verify_consistency
from loom.log.note import InvalidNote, parse_checkpoint, split
from loomos.witness.book import Book

__all__ = ["Answer", "add_checkpoint", "latest"]

PLAIN = "text/plain; charset=utf-8"
SIZE = "text/x.tlog.size"


class Answer(NamedTuple):
    """An HTTP answer."""

    status: int
    body: str
    media_type: str = PLAIN


def add_checkpoint(body: bytes, book: Book, now_s: int) -> Answer:
    """The cosignature, or why there is none."""
    try:
        submission = Submission.parse(body.decode())
        text, signatures = split(submission.note)
        checkpoint = parse_checkpoint(text)
    except (InvalidNote, UnicodeDecodeError) as error:
        return Answer(400, f"{error}\n")
    trusted = book.trusted(checkpoint.origin)
    if trusted is None:
        return Answer(404, f"the log {checkpoint.origin[:100]!r} is not known here\n")
    try:
        trusted.verifier.open(submission.note)
    except InvalidNote as error:
        return Answer(403, f"{error}\n")
    if submission.old > checkpoint.size:
        return Answer(
            400, f"old is {submission.old}, the checkpoint has {checkpoint.size} leaves\n"
        )
    # Others' signatures are theirs to vouch for: what is kept and shown carries the log's own only.
    own = "".join(
        line
        for (name, data), line in zip(
            signatures, submission.note.removeprefix(text + "\n").splitlines(True), strict=True
        )
        if (name, data[:4]) == (trusted.verifier.name, trusted.verifier.key_id)
    )
    note = f"{text}\n{own}"
    with book.lock:
        try:
            last = book.last(checkpoint.origin)
        except InvalidNote as error:
            return Answer(500, f"the book cannot be read: {error}\n")
        known = last.checkpoint.size if last else 0
        if submission.old != known:
            return Answer(409, f"{known}\n", SIZE)
        root = last.checkpoint.root if last else EMPTY_ROOT
        if not verify_consistency(
            known, checkpoint.size, submission.path, root, checkpoint.root
        ) or (checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT):
            return Answer(422, f"nothing proves that the tree of {known} leaves only grew\n")
        line = book.cosigner.cosign(note, now_s)
        try:
            book.keep(checkpoint.origin, note + line)
        except OSError as error:
            return Answer(500, f"the book cannot be written: {error.strerror}\n")
    return Answer(200, line)


def latest(origin_digest: str, book: Book) -> Answer:
    """The last cosigned checkpoint of the log whose origin has this SHA-256."""
    if len(origin_digest) != 64 or not set(origin_digest) <= set("0123456789abcdef"):
        return Answer(404, "name the log by the SHA-256 of its origin, in lower-case hex\n")
    try:
        entry = book.entry(book.path(origin_digest))
    except InvalidNote as error:
        return Answer(500, f"the book cannot be read: {error}\n")
    if entry is None:
        return Answer(404, "nothing of this log was cosigned here\n")
    return Answer(200, entry.note)
