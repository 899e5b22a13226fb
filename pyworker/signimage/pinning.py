"""Which root keys may be believed at all: pins, and the certificates that carry root keys.

Rules, for the keys of a root role:

1. Where root keys are pinned, a first root must name one of them; where an authority is pinned,
   it must have issued one. With neither, first use is enough, unless that is switched off.
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
        key_ids: TUF key IDs of root keys; one of them must be a root key of the root.
        authorities: Certificates; one of them must have issued a root key's certificate.
        first_use: Without either, whether the first root that is seen is believed.
    """

    key_ids: frozenset[str] = frozenset()
    authorities: tuple[Certificate, ...] = ()
    first_use: bool = True

    @property
    def is_pinned(self) -> bool:
        """Whether anything but first use speaks for a root."""
        return bool(self.key_ids or self.authorities)

    def check(self, root: Root, gun: str, now: datetime, what: str) -> None:
        """Refuse *root* unless a pin speaks for it, or nothing is pinned and first use is enough.

        Raises:
            RootPinError: Nothing speaks for it.
        """
        found = root.roles[ROOT].keyids
        if self.key_ids:
            if self.key_ids.isdisjoint(found):
                raise RootPinError(
                    f"{what}: expected root key {either(self.key_ids)}, got {either(found)}",
                    hint="Somebody may have replaced the repository's trust data. Ask its owner "
                    "whether the root key was renewed, and pin the new ID only if so",
                )
        elif self.authorities:
            if not any(self._is_issued(root.keys[key_id], now) for key_id in found):
                raise RootPinError(
                    f"{what}: none of its root keys is certified by the pinned authority",
                    hint="Ask the owner of the repository who issued its root certificate",
                )
        elif not self.first_use:
            raise RootPinError(
                f"{what}: nothing is pinned for {gun}, and first use is not trusted",
                hint=f"If its owner confirms them, pin its root keys: {either(found)}",
            )

    def _is_issued(self, key: PublicKey, now: datetime) -> bool:
        try:
            leaf, *others = certificate_bundle(key)
        except FormatError:
            return False
        usable = [each for each in others if each.is_ca and _is_in_force(each, now)]
        pinned = [each for each in self.authorities if _is_in_force(each, now)]
        current = leaf
        for _ in range(len(usable) + 1):
            if any(current.is_issued_by(each) or current == each for each in pinned):
                return True
            current = next((each for each in usable if current.is_issued_by(each)), current)
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


def _is_in_force(certificate: Certificate, now: datetime) -> bool:
    return certificate.not_before <= now + _CLOCK_SKEW and now <= certificate.not_after


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
    if leaf.signature_hash == "sha1":
        raise TrustError(f"{what}: its root certificate is signed with SHA-1")
    if leaf.key_type == "rsa" and leaf.key_bits < _MIN_RSA_BITS:
        raise TrustError(
            f"{what}: expected an RSA root key of {_MIN_RSA_BITS} bits or more, got {leaf.key_bits}"
        )
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
