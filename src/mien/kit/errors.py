"""One family of errors for all of Mien; `runtime/http` translates it to RFC 9457 problems.

A message names the fact and what to do about it. It reaches the client as it stands, so it never
holds a path of the server, an SQL text, a stack or personal data.
"""

from typing import ClassVar


class MienError(Exception):
    """The root of the family.

    `code` is a stable, machine-readable word (kebab-case); `status` is the HTTP status that a
    protocol front answers with; `facts` are extra members for the answer (JSON values).
    """

    code: ClassVar[str] = "internal-error"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal error"

    def __init__(self, message: str, **facts: object) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts


class BadInput(MienError):
    """What was sent can't be used as it is."""

    code = "bad-input"
    status = 422
    title = "The request can't be used as it is"


class BadPhoto(BadInput):
    """The bytes are no photo that Mien reads, or a damaged one."""

    code = "bad-photo"
    title = "The photo can't be read"


class UnsupportedFormat(BadPhoto):
    """The bytes are of a format that Mien does not read."""

    code = "unsupported-format"
    status = 415
    title = "The photo's format is not supported"


class TooLarge(MienError):
    """A body, a photo or an archive is over its limit."""

    code = "too-large"
    status = 413
    title = "Over a limit"


class Unauthenticated(MienError):
    """No key, or one that does not hold."""

    code = "unauthenticated"
    status = 401
    title = "A valid API key is needed"


class Forbidden(MienError):
    """The key is good, but not for this."""

    code = "forbidden"
    status = 403
    title = "Not allowed"


class NotFound(MienError):
    """The named thing is not there (for this tenant)."""

    code = "not-found"
    status = 404
    title = "Not found"


class Conflict(MienError):
    """The change contradicts what is stored."""

    code = "conflict"
    status = 409
    title = "Conflict"


class SpaceMismatch(Conflict):
    """Embeddings of two spaces were to be compared."""

    code = "space-mismatch"
    title = "Embeddings of another space"


class Busy(MienError):
    """All places are taken; `retry_after_s` says when to come again."""

    code = "busy"
    status = 503
    title = "Busy"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **facts: object) -> None:
        super().__init__(message, **facts)
        self.retry_after_s = retry_after_s


class Unavailable(Busy):
    """A part that is needed is not there now (a store, a model that is still being fetched)."""

    code = "unavailable"
    title = "Unavailable"


class TimedOut(MienError):
    """The work took longer than its limit."""

    code = "timed-out"
    status = 504
    title = "Timed out"


class ModelError(MienError):
    """A model is missing, damaged, refused by its licence, or has no source that answers."""

    code = "model-error"
    status = 503
    title = "A model can't be used"


class SetupError(MienError):
    """The installation or its settings are wrong; what to do is in the message."""

    code = "setup-error"
    title = "The installation needs attention"
