"""Claims about `signimage.permissions`: what people read when a permission is missing."""

import pytest

from signimage.acr import CLOUDS
from signimage.permissions import (
    AZURE_REGISTRIES,
    PIPELINE,
    Permission,
    is_azure_registry,
    is_firewall,
    permission_hint,
    refused_hint,
    workstation,
)

AZURE, OTHER = "team.azurecr.io", "reg.example.com:5000"
ROLE_TAKES = "a new role takes some minutes and a new login to work"

SCOPED = f"and a repository-scoped token cannot sign whatever it may do else; {ROLE_TAKES}"


@pytest.mark.parametrize(
    ("host", "permission", "hint"),
    [
        (
            AZURE,
            Permission.PULL,
            f"The account needs the role AcrPull on this registry; {ROLE_TAKES}",
        ),
        (
            AZURE,
            Permission.READ,
            f"The account needs the role AcrPull on this registry; {ROLE_TAKES}",
        ),
        (
            AZURE,
            Permission.PUSH,
            f"The account needs the role AcrPush on this registry; {ROLE_TAKES}",
        ),
        (
            AZURE,
            Permission.SIGN,
            f"The account needs the roles AcrImageSigner and AcrPush on this registry, {SCOPED}",
        ),
        (OTHER, Permission.PULL, "The account needs the right to pull from this repository"),
        (OTHER, Permission.READ, "The account needs the right to pull from this repository"),
        (OTHER, Permission.PUSH, "The account needs the right to push to this repository"),
        (
            OTHER,
            Permission.SIGN,
            "The account needs the right to push to the repository, and to sign in it",
        ),
    ],
)
def test_each_permission_has_its_sentence(host: str, permission: Permission, hint: str) -> None:
    assert permission_hint(host, permission) == hint


@pytest.mark.parametrize(
    "host", ["team.azurecr.io", "Team.AzureCR.io.:443", "team.azurecr.us", "team.azurecr.cn"]
)
def test_registries_of_azure_are_known_by_their_last_labels(host: str) -> None:
    assert is_azure_registry(host)


@pytest.mark.parametrize(
    "host",
    ["azurecr.io", "team.azurecr.io.example.com", "team-azurecr.io", "localhost:5000", "[::1]:5"],
)
def test_other_registries_are_not_taken_for_azures(host: str) -> None:
    assert not is_azure_registry(host)


def test_the_registries_of_azure_are_those_that_logins_are_exchanged_at() -> None:
    assert set(AZURE_REGISTRIES) == set(CLOUDS)


def test_a_refused_login_is_explained_where_its_owner_can_change_it() -> None:
    assert "registry service connection" in refused_hint(OTHER, PIPELINE)
    assert refused_hint(OTHER, workstation(OTHER)) == f"Log in again with: docker login {OTHER}"
    assert "client secret of a service principal expires" in refused_hint(AZURE, PIPELINE)


def test_docker_hub_is_logged_in_to_without_a_name() -> None:
    assert workstation("docker.io").refused == "Log in again with: docker login"


def test_a_firewall_is_known_by_its_words() -> None:
    assert is_firewall("DENIED: client with IP '192.0.2.7' is not allowed access.")
    assert is_firewall("denied: Refer https://aka.ms/acr/firewall to grant access.")
    assert not is_firewall("DENIED: requested access to the resource is denied")
