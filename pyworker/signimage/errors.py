"""Every error SignImage raises on purpose, sorted by who must act.

    SignImageError
    ├── InputError        the caller must change what was asked
    ├── FormatError       some bytes are not what they claim to be
    ├── TrustError        stop: what the trust server says must not be believed
    └── RemoteError       another machine, or the way to it, failed

The rules of this file:

1. A message is one sentence: what went wrong, *expected X, got Y* where there is an X.
2. A hint is the next action, apart from the message, and never advises to weaken a check.
3. Malformed is never absent, unreachable is never untrusted, untrusted is never retried.
4. `code` is stable: `docs/errors.md` explains each, and log issues carry it.
"""

from typing import ClassVar


class SignImageError(Exception):
    """Base of all errors below.

    `str(error)` is the message and `hint` the next action; `state` says what has happened to the
    world already, and is set by the use case that knows.
    """

    code: ClassVar[str] = "SI000"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        self.state = ""

    @property
    def sentence(self) -> str:
        """Message, state and hint as people should read them, in one line."""
        parts = (str(self), self.state, self.hint)
        return ". ".join(part.rstrip(".") for part in parts if part) + "."


class InputError(SignImageError):
    """The caller asked for something that cannot be done as asked."""

    code = "SI100"


class PassphraseError(InputError):
    """A private key is encrypted and its passphrase is missing or wrong."""

    code = "SI101"


class NotASignerError(InputError):
    """None of the keys at hand may sign what was asked."""

    code = "SI102"


class BuildError(InputError):
    """The image could not be built from the given Dockerfile and context."""

    code = "SI103"


# What to do about an answer that no server of the expected kind gives.
STRANGER_HINT = (
    "Something else may answer in that server's place: check its address, proxies, and networks "
    "that want a sign-in"
)


class FormatError(SignImageError):
    """Bytes or text do not have the form that their kind requires."""

    code = "SI200"


class TrustError(SignImageError):
    """Trust data exists and fails a rule; nothing that depends on it may go on."""

    code = "SI300"


class NotInitializedError(TrustError):
    """The trust server answered, and holds no trust data for this repository."""

    code = "SI301"


class ThresholdError(TrustError):
    """Too few of the role's keys have signed."""

    code = "SI302"


class RollbackError(TrustError):
    """A version is lower than one already seen."""

    code = "SI303"


class ExpiredError(TrustError):
    """A role file or certificate is past its expiry."""

    code = "SI304"


class HashMismatchError(TrustError):
    """Content is not the content that a trusted description names."""

    code = "SI305"


class RootPinError(TrustError):
    """The root of trust is not the one that was pinned or seen before."""

    code = "SI306"


class NotSignedError(TrustError):
    """A tag is not covered by the signatures that were required."""

    code = "SI307"


class RemoteError(SignImageError):
    """Another machine refused, failed, or could not be reached."""

    code = "SI400"


class UnreachableError(RemoteError):
    """No usable answer arrived: name, connection, TLS, time-out, cut-off body."""

    code = "SI401"


class CertificateError(UnreachableError):
    """The other side's TLS certificate cannot be verified."""

    code = "SI402"


class UnauthorizedError(RemoteError):
    """The other side does not accept our credentials, or they lack a permission."""

    code = "SI403"


class NotFoundError(RemoteError):
    """The other side answered that the thing does not exist."""

    code = "SI404"


class TooLargeError(RemoteError):
    """An answer is larger than its kind may be."""

    code = "SI405"


class ConflictError(RemoteError):
    """Somebody else changed the same thing first; the caller may look again and retry."""

    code = "SI406"


class UnavailableError(RemoteError):
    """The other side answered that it cannot serve now; what it did with a request is unknown."""

    code = "SI408"


class WedgedRootError(RemoteError):
    """The trust server holds a root that it refers to nowhere, and refuses every further one."""

    code = "SI409"


class EngineError(RemoteError):
    """The container engine cannot be used, or failed other than by a bad Dockerfile."""

    code = "SI407"
