"""Base images: which of them are signed, and a build from exactly what was signed.

The rules of this file:

1. What a Dockerfile names by tag is looked up in the trust data of its repository, as consumers
   of that image do; what it names by digest is taken as it is, for a digest cannot be moved.
2. *Unsigned* is only what a trust server says it has no signature for, or what belongs to a host
   that says it has no trust data at all. Trust data that breaks a rule ends the step.
3. A server that cannot be asked leaves the question open: a warning where bases are only
   verified, an error where a build depends on the answer.
4. What is signed, and pinned, is the tag's manifest: for several platforms, the index of them.

`docs/base-images.md`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from signimage.errors import (
    HashMismatchError,
    InputError,
    NotFoundError,
    NotInitializedError,
    NotSignedError,
    RemoteError,
    SignImageError,
)
from signimage.lookup import released, signers_of, who_signed
from signimage.notary import TrustServer
from signimage.oci import Digest, Reference, Repository
from signimage.stages import Stages, Use, pinned, same_image
from signimage.trust import TrustedRepository

_DEFAULT_TAG = "latest"


class BasePolicy(Enum):
    """What is asked of base images: the values of the input `baseImages`."""

    OFF = "off"
    VERIFY = "verify"  # those that are signed hold; those that are not are reported
    PIN = "pin"  # the same, and the build uses what was signed
    REQUIRE = "require"  # the same, and each must be signed

    @property
    def pins(self) -> bool:
        """Whether the build uses what was signed, whatever the tags point at by then."""
        return self in (BasePolicy.PIN, BasePolicy.REQUIRE)


@dataclass(frozen=True, slots=True)
class Base:
    """An image that a Dockerfile names.

    Attributes:
        image: Its name as the Dockerfile has it, variables filled in.
        places: Where it is named, for people: `line 3`.
        repository: Where it is kept.
        digest: What is signed under the tag, or what the Dockerfile names; None if unsigned.
        signed_by: Who has signed it, in words.
        reason: Why it counts as unsigned, or empty.
    """

    image: str
    places: tuple[str, ...]
    repository: Repository
    digest: Digest | None = None
    signed_by: str = ""
    reason: str = ""

    @property
    def is_given(self) -> bool:
        """Whether the Dockerfile names it by digest, so that nothing was looked up."""
        return "@" in self.image

    @property
    def pin(self) -> str:
        """The name that nobody can move, empty where there is none to choose."""
        return "" if self.is_given or not self.digest else f"{self.repository}@{self.digest}"

    def __str__(self) -> str:
        return f"base image {self.image} ({', '.join(self.places)})"


@dataclass(frozen=True, slots=True)
class Bases:
    """What was found out about the images that a Dockerfile names.

    Attributes:
        policy: What was asked of them.
        stages: The Dockerfile.
        bases: Each image once, in the order of the file.
        warnings: What people should know although the build goes on.
    """

    policy: BasePolicy
    stages: Stages
    bases: tuple[Base, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def pins(self) -> Mapping[str, str]:
        """The names to build from, by the names that the Dockerfile uses."""
        return {base.image: base.pin for base in self.bases if base.pin and self.policy.pins}

    @property
    def contexts(self) -> Mapping[str, str]:
        """Named contexts that have BuildKit use what was signed; they win over the user's own.

        None for the classic builder, and few where `dockerfile` is to be built instead.
        """
        if self.stages.options.is_classic:
            return {}
        return {
            use.context or use.image: f"docker-image://{self.pins[use.image]}"
            for use in self.stages.uses
            if use.image in self.pins and (use.context or not self._hides_a_stage())
        }

    @property
    def build_arguments(self) -> tuple[str, ...]:
        """`contexts` as arguments of `docker build`, to come after the user's."""
        named = (f"{name}={source}" for name, source in self.contexts.items())
        return tuple(word for each in named for word in ("--build-context", each))

    @property
    def labels(self) -> Mapping[str, str]:
        """Labels that name the image which the last stage is built on, if that is pinned."""
        last = self.stages.base or ""
        return next(
            (
                {"image.base.ref.name": last, "image.base.digest": base.digest.text}
                for base in self.bases
                if base.pin and base.digest and self.policy.pins and same_image(base.image, last)
            ),
            {},
        )

    def dockerfile(self) -> str | None:
        """The Dockerfile with the names of what was signed, None where it is not needed.

        Raises:
            InputError: A name is written in a way that cannot be replaced.
        """
        if not self.pins or not (self.stages.options.is_classic or self._hides_a_stage()):
            return None
        return pinned(self.stages, self.pins)

    def _hides_a_stage(self) -> bool:
        """Whether a context for an image would stand in for a stage of the same name.

        `FROM golang AS golang`: BuildKit would take the context for the whole stage.
        """
        return any(same_image(image, name) for image in self.pins for name in self.stages.names)


def trusted_bases(
    stages: Stages,
    policy: BasePolicy,
    server_for: Callable[[Repository], TrustServer],
    tell: Callable[[str], None],
    digest_of: Callable[[Reference], Digest] | None = None,
) -> Bases:
    """Find out which images of a Dockerfile are signed, and as what.

    Args:
        stages: The Dockerfile.
        policy: What is asked of its images.
        server_for: Gives the trust server that speaks for a repository.
        tell: Gets a sentence for each image that is signed or named by digest.
        digest_of: Asks the registry what a tag points at. With it, a tag that is only verified,
            not pinned, must still be what was signed.

    Raises:
        NotSignedError: Images are not signed, and must be.
        HashMismatchError: A tag points at something else than what was signed.
        TrustError: Trust data is there and breaks a rule.
        InputError: A name is no image's, or depends on what is not known here.
        RemoteError: It could not be found out, and the build depends on it.
    """
    if policy is BasePolicy.OFF:
        return Bases(policy, stages)
    inspection = _Inspection(policy, server_for, digest_of)
    if stages.syntax:
        inspection.warnings.append(
            f"the Dockerfile is read by the image {stages.syntax}, which is not verified"
        )
    inspection.check_known(use for use in stages.uses if use.fault)
    by_image: dict[str, list[Use]] = {}
    for use in stages.uses:
        if not use.fault:
            by_image.setdefault(use.image, []).append(use)
    bases = []
    for image, uses in by_image.items():
        base = inspection.base(image, tuple(dict.fromkeys(use.place for use in uses)))
        bases.append(base)
        _tell_of(base, tell)
    unsigned = [base for base in bases if base.reason]
    if policy is BasePolicy.REQUIRE and unsigned:
        raise NotSignedError(
            "; ".join(f"{base} is not signed: {base.reason}" for base in unsigned),
            hint="Have their publishers sign them, or name what you trust by its digest",
        )
    inspection.warnings += [f"{base} is not signed: {base.reason}" for base in unsigned]
    return Bases(policy, stages, tuple(bases), tuple(inspection.warnings))


def _tell_of(base: Base, tell: Callable[[str], None]) -> None:
    if base.is_given:
        tell(f"{base} is named by its digest")
    elif base.digest is not None:
        tell(f"{base} is {base.digest}, signed by {base.signed_by}")


class _Inspection:
    """The questions about one Dockerfile; each repository is asked for once."""

    def __init__(
        self,
        policy: BasePolicy,
        server_for: Callable[[Repository], TrustServer],
        digest_of: Callable[[Reference], Digest] | None,
    ) -> None:
        self._policy = policy
        self._server_for = server_for
        self._digest_of = None if policy.pins else digest_of
        self._believed: dict[Repository, TrustedRepository | str] = {}
        self.warnings: list[str] = []

    def check_known(self, unknown: Iterable[Use]) -> None:
        """Report images whose names are not known, or refuse them where a build depends on it."""
        for use in unknown:
            sentence = f"base image in {use.place} is not known: {use.fault}"
            if self._policy.pins:
                raise InputError(sentence, hint="Give the value in the build arguments")
            self.warnings.append(sentence)

    def base(self, image: str, places: tuple[str, ...]) -> Base:
        """Find out about one image."""
        reference = Reference.parse(image)
        base = Base(image, places, reference.repository, reference.digest)
        if base.is_given:
            return base
        try:
            return self._looked_up(base, reference.tag or _DEFAULT_TAG)
        except RemoteError as error:
            if self._policy.pins:
                raise _about(base, error) from error
            self.warnings.append(f"{base} was not verified: {error.sentence}")
            return base
        except SignImageError as error:
            raise _about(base, error) from error

    def _looked_up(self, base: Base, tag: str) -> Base:
        repository = self._repository(base.repository)
        if isinstance(repository, str):
            return Base(base.image, base.places, base.repository, reason=repository)
        try:
            meta = released(repository, tag)
        except NotSignedError as error:
            return Base(base.image, base.places, base.repository, reason=str(error))
        digest = Digest.of_raw(meta.sha256)
        self._check_tag(Reference(base.repository, tag), digest)
        signed_by = who_signed(repository, tag, meta, signers_of(repository, tag, meta))
        return Base(base.image, base.places, base.repository, digest, signed_by)

    def _check_tag(self, reference: Reference, signed: Digest) -> None:
        found = self._digest_of(reference) if self._digest_of else signed
        if found != signed:
            raise HashMismatchError(
                f"{reference} in the registry: expected {signed}, which is signed, got {found}",
                hint="With baseImages set to pin, the build uses what was signed",
            )

    def _repository(self, name: Repository) -> TrustedRepository | str:
        """The believed state of a repository, or why there is none to believe."""
        if name not in self._believed:
            self._believed[name] = _believed(self._server_for(name))
        return self._believed[name]


def _believed(server: TrustServer) -> TrustedRepository | str:
    try:
        return server.refresh()
    except NotInitializedError as error:
        return str(error)
    except NotFoundError as error:
        # A registry without any content trust answers so; so does a damaged repository, later on.
        try:
            server.api.root()
        except NotFoundError:
            return f"{server.api.url} is no trust server: {error}"
        raise


def _about(base: Base, error: SignImageError) -> SignImageError:
    """The same error, with the image that it is about before it."""
    return type(error)(f"{base}: {error}", hint=error.hint)
