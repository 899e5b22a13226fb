"""Which root keys may be believed at all: pins, and the certificates that carry root keys.

Rules, for the keys of a root role:

1. Where root keys are pinned, a first root must name one of them.
2. A root key is a certificate for this repository: its common name is the repository's GUN, or
   a prefix of it followed by `*`.
3. The certificate is not signed with SHA-1, and an RSA key has at least 2048 bits.
4. The moment of judgement lies between its dates; one day of clock difference is forgiven at
   the beginning, none at the end. A root that is only a link to a newer one may have ended.

Specification: Notary 0.7, `trustpinning` (`docs/protocol.md`, "Root").
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from signimage.errors import ExpiredError, FormatError, RootPinError, TrustError
from signimage.keys import PublicKey, certificate
from signimage.metadata import ROOT, Root

# Certificates are made on machines whose clocks may run ahead; Notary forgives as much.
_CLOCK_SKEW = timedelta(days=1)
_MIN_RSA_BITS = 2048


@dataclass(frozen=True, slots=True)
class RootPins:
    """What makes a first root believable: TUF key IDs of root keys, or first use alone."""

    key_ids: frozenset[str] = frozenset()

    def check(self, root: Root, what: str) -> None:
        """Refuse *root* unless one of its root keys is pinned, or nothing is.

        Raises:
            RootPinError: There are pins, and none of them is a root key of this root.
        """
        found = root.roles[ROOT].keyids
        if self.key_ids and self.key_ids.isdisjoint(found):
            raise RootPinError(
                f"{what}: expected root key {either(self.key_ids)}, got {either(found)}",
                hint="Somebody may have replaced the repository's trust data. Ask its owner "
                "whether the root key was renewed, and pin the new ID only if so",
            )


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
