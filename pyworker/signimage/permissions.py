"""Which permission is missing where a registry or a trust server refuses, and who can give it.

The one place for these sentences. Whoever reads them looks at a failed job, so each names what
somebody can do next. No sentence names an account: pipelines keep user names to themselves.

Azure Container Registry: roles `AcrPull`, `AcrPush` and `AcrImageSigner`; content trust needs
`AcrPush` beside the last. Elsewhere the names of rights differ, and so none is named.
"""

from dataclasses import dataclass
from enum import Enum

from signimage.oci import DOCKER_HUB

# The public cloud, and the national and sovereign ones.
AZURE_REGISTRIES = (
    ".azurecr.io",
    ".azurecr.us",
    ".azurecr.cn",
    ".azurecr.de",
    ".azurecr.eaglex.ic.gov",
    ".azurecr.microsoft.scloud",
)


class Permission(Enum):
    """What a visitor may or may not do; the value goes between "let you" and a repository."""

    PULL = "pull from"
    PUSH = "push to"
    REMOVE = "remove tags from"
    READ = "read the trust data of"
    SIGN = "publish the trust data of"


@dataclass(frozen=True, slots=True)
class LoginAdvice:
    """Where logins come from, in terms of what to do without one, and with one that is refused."""

    missing: str
    refused: str


PIPELINE = LoginAdvice(
    missing="An account is wanted here: name its service connection in containerRegistry",
    refused="Check user name and password of the registry service connection: one of them is "
    "wrong, or has expired",
)


# For a trust server that does not get the login of the registry.
ELSEWHERE = LoginAdvice(
    missing="The login of a registry of Azure goes to no server but the registry itself, which is "
    "its own trust server: leave trustServer and DOCKER_CONTENT_TRUST_SERVER empty",
    refused=PIPELINE.refused,
)


def workstation(host: str) -> LoginAdvice:
    """The advice for somebody whose logins are Docker's; *host* is the registry's."""
    command = "docker login" if host == DOCKER_HUB else f"docker login {host}"
    return LoginAdvice(
        missing=f"An account is wanted here; log in with: {command}",
        refused=f"Log in again with: {command}",
    )


def is_azure_registry(host: str) -> bool:
    """Tell whether *host*, with or without a port, belongs to Azure Container Registry."""
    return host.partition(":")[0].rstrip(".").lower().endswith(AZURE_REGISTRIES)


def permission_hint(host: str, permission: Permission) -> str:
    """Say what gives an account a missing *permission* on the server *host*."""
    return _AZURE_HINTS[permission] if is_azure_registry(host) else _HINTS[permission]


def refused_hint(host: str, advice: LoginAdvice) -> str:
    """Say what to do about a login that the server *host* does not accept at all."""
    if not is_azure_registry(host):
        return advice.refused
    return (
        f"{advice.refused}; the client secret of a service principal expires, and an account "
        "without any role on this registry is refused in the same words"
    )


def is_firewall(said: str) -> bool:
    """Tell whether a registry's own words speak of the visitor's network, not of the account."""
    return any(sign in said.lower() for sign in ("is not allowed access", "acr/firewall"))


FIREWALL_HINT = (
    "The registry's network rules keep this machine out, whatever its login: allow its address "
    "there, or run on a machine inside of the registry's network"
)
CLOCKS_HINT = (
    "The clocks of server and token service may differ, or the two are not set up for each other; "
    "their operator can see which"
)
RATE_HINT = "Wait a while; servers often allow more to an account than to anonymous visitors"
BUSY_HINT = "Try again; its operator can see why"

_HINTS = {
    Permission.PULL: "The account needs the right to pull from this repository",
    Permission.PUSH: "The account needs the right to push to this repository",
    Permission.REMOVE: "The account needs the right to delete in this repository",
    Permission.READ: "The account needs the right to pull from this repository",
    Permission.SIGN: "The account needs the right to push to the repository, and to sign in it",
}
_NEW_ROLE = "a new role takes some minutes and a new login to work"
_AZURE_HINTS = {
    Permission.PULL: f"The account needs the role AcrPull on this registry; {_NEW_ROLE}",
    Permission.PUSH: f"The account needs the role AcrPush on this registry; {_NEW_ROLE}",
    Permission.REMOVE: f"The account needs the role AcrDelete on this registry; {_NEW_ROLE}",
    Permission.READ: f"The account needs the role AcrPull on this registry; {_NEW_ROLE}",
    Permission.SIGN: "The account needs the roles AcrImageSigner and AcrPush on this registry, "
    f"and a repository-scoped token cannot sign whatever it may do else; {_NEW_ROLE}",
}
