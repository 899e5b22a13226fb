"""Which root keys may be believed at all: pins, and the certificates that carry root keys.

Rules, for the keys of a root role:

1. Where root keys are pinned, only they may sign a first root; where an authority is pinned, only
   keys that it certified. With neither, first use is enough, unless that is switched off.
2. A root key is a certificate for this repository: its common name is the repository's GUN, or
   a prefix of it followed by `*`.
3. The certificate is not signed with SHA-1, and an RSA key has at least 2048 bits.
4. The moment of judgement lies between its dates; one day of clock difference is forgiven at
   the beginning, none at the end. A root that is only a link to a newer one may have ended.

Specification: Notary 0.7, `trustpinning` (`docs/protocol.md`, "Root").
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from signimage.certificates import Certificate
from signimage.errors import ExpiredError, FormatError, RootPinError, TrustError
from signimage.keys import PublicKey, certificate, certificate_bundle
from signimage.metadata import ROOT, Root

# Certificates are made on machines whose clocks may run ahead; Notary forgives as much.
_CLOCK_SKEW = timedelta(days=1)
_MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class RootPins:
    """What makes the first root of one repository believable.

    Attributes:
        key_ids: TUF key IDs of root keys; only signatures by these count.
        authorities: Certificates; only signatures by keys that one of them certified count.
        first_use: Without either, whether the first root that is seen is believed.
    """

    key_ids: frozenset[str] = frozenset()
    authorities: tuple[Certificate, ...] = ()
    first_use: bool = True

    @property
    def is_pinned(self) -> bool:
        """Whether anything but first use speaks for a root."""
        return bool(self.key_ids or self.authorities)

    def select(self, root: Root, gun: str, now: datetime, what: str) -> frozenset[str]:
        """The root keys of *root*, by TUF key ID, whose signatures make it a believable first one.

        Anybody can name a pinned key beside a key of their own: it has to sign as well.

        Raises:
            RootPinError: There is none.
        """
        found = frozenset(root.roles[ROOT].keyids)
        if self.key_ids:
            if self.key_ids.isdisjoint(found):
                raise RootPinError(
                    f"{what}: expected root key {either(self.key_ids)}, got {either(found)}",
                    hint="Somebody may have replaced the repository's trust data. Ask its owner "
                    "whether the root key was renewed, and pin the new ID only if so",
                )
            return self.key_ids & found
        if self.authorities:
            issued = frozenset(each for each in found if self._is_issued(root.keys[each], now))
            if not issued:
                raise RootPinError(
                    f"{what}: none of its root keys is certified by the pinned authority",
                    hint="Ask the owner of the repository who issued its root certificate",
                )
            return issued
        if not self.first_use:
            raise RootPinError(
                f"{what}: nothing is pinned for {gun}, and first use is not trusted",
                hint=f"If its owner confirms them, pin its root keys: {either(found)}",
            )
        return found

    def _is_issued(self, key: PublicKey, now: datetime) -> bool:
        """Whether a chain of certificates leads from *key* to a pinned authority."""
        try:
            leaf, *others = certificate_bundle(key)
        except FormatError:
            return False
        usable = [each for each in others if _is_usable(each, now)]
        pinned = [each for each in self.authorities if _is_usable(each, now)]
        reached = [(leaf, 0)]  # with the number of intermediates below an issuer of it
        for current, below in reached:  # grows while it is walked
            if any(current == each or _is_issued_by(current, each, below) for each in pinned):
                return True
            known = [each for each, _ in reached]
            reached += [
                (each, below + 1)
                for each in usable
                if each not in known and _is_issued_by(current, each, below)
            ]
        return False


@dataclass(frozen=True, slots=True)
class PinRules:
    """Pins for many repositories, as the `trust_pinning` of Notary's configuration has them.

    `key_ids` go by a GUN or a prefix of GUNs followed by `*`, `authorities` by a prefix of GUNs.
    """

    key_ids: Mapping[str, frozenset[str]] = field(default_factory=dict)
    authorities: Mapping[str, tuple[Certificate, ...]] = field(default_factory=dict)
    first_use: bool = True

    def select(self, gun: str) -> RootPins:
        """The pins for *gun*: exact key IDs, else the longest prefix, else an authority's."""
        exact = self.key_ids.get(gun)
        if exact is not None:
            return RootPins(key_ids=exact, first_use=self.first_use)
        stars = {name[:-1]: ids for name, ids in self.key_ids.items() if name.endswith("*")}
        prefix = _longest(stars, gun)
        if prefix is not None:
            return RootPins(key_ids=stars[prefix], first_use=self.first_use)
        prefix = _longest(self.authorities, gun)
        authorities = () if prefix is None else self.authorities[prefix]
        return RootPins(authorities=authorities, first_use=self.first_use)


def _longest(prefixes: Iterable[str], gun: str) -> str | None:
    return max((each for each in prefixes if gun.startswith(each)), key=len, default=None)


def _is_usable(certificate: Certificate, now: datetime) -> bool:
    in_force = certificate.not_before <= now + _CLOCK_SKEW and now <= certificate.not_after
    return in_force and not _weakness(certificate)


def _is_issued_by(certificate: Certificate, issuer: Certificate, below: int) -> bool:
    """Whether *issuer* made *certificate*, and may with *below* intermediates under it."""
    fits = issuer.path_length is None or below <= issuer.path_length
    return issuer.is_ca and fits and certificate.is_issued_by(issuer)


def _weakness(certificate: Certificate) -> str:
    """Why nobody should rely on the keys and hashes of *certificate*; "" if they are sound."""
    if certificate.signature_hash == "sha1":
        return "its root certificate is signed with SHA-1"
    if certificate.key_type == "rsa" and certificate.key_bits < _MIN_RSA_BITS:
        return (
            f"expected an RSA root key of {_MIN_RSA_BITS} bits or more, got {certificate.key_bits}"
        )
    return ""


NO_PINS = RootPins()


def certified_keys(
    root: Root, gun: str, now: datetime, *, what: str, allow_expired: bool
) -> Mapping[str, PublicKey]:
    """The root keys of *root*, by TUF key ID, whose certificates hold for *gun* at *now*.

    Raises:
        TrustError: There is none; the error is that of the first certificate.
    """
    keys: dict[str, PublicKey] = {}
    refusals: list[TrustError] = []
    for key_id in root.roles[ROOT].keyids:
        try:
            _check_certificate(root.keys[key_id], gun, now, what, allow_expired=allow_expired)
        except TrustError as error:
            refusals.append(error)
        else:
            keys[key_id] = root.keys[key_id]
    if not keys and refusals:
        raise refusals[0]
    return keys


def either(key_ids: Collection[str]) -> str:
    """Key IDs as a sentence lists them."""
    return " or ".join(sorted(key_ids)) or "none"


def _check_certificate(
    key: PublicKey, gun: str, now: datetime, what: str, *, allow_expired: bool
) -> None:
    try:
        leaf = certificate(key)
    except FormatError as error:
        raise TrustError(f"{what}: root key {key.key_id}: {error}") from error
    name = leaf.common_name
    if name != gun and not (name.endswith("*") and gun.startswith(name[:-1])):
        raise TrustError(f"{what}: expected a certificate for {gun}, got one for {name[:300]!r}")
    if weakness := _weakness(leaf):
        raise TrustError(f"{what}: {weakness}")
    if leaf.not_before > now + _CLOCK_SKEW:
        raise TrustError(
            f"{what}: its root certificate is valid from {leaf.not_before:%Y-%m-%dT%H:%M:%SZ}; "
            f"this machine's clock says {now:%Y-%m-%dT%H:%M:%SZ}"
        )
    if leaf.not_after < now and not allow_expired:
        raise ExpiredError(
            f"{what}: its root certificate expired at {leaf.not_after:%Y-%m-%dT%H:%M:%SZ}",
            hint="The owner must issue a new certificate for the root key",
        )
