"""Claims about `signimage.trustapi`: which trust server gets the login of a registry."""

import pytest

from signimage.trustapi import gets_login


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("myreg.azurecr.io", "https://myreg.azurecr.io"),
        ("myreg.azurecr.io", "https://MyReg.azurecr.io:443/"),
        ("docker.io", "https://notary.docker.io"),
        ("reg.example.com:5000", "https://notary.example.com"),
    ],
)
def test_login_goes_to_the_trust_server_of_its_registry(host: str, url: str) -> None:
    assert gets_login(url, host)


@pytest.mark.parametrize(
    "url",
    [
        "https://notary.example.com",
        "https://other.azurecr.io",
        "https://myreg.azurecr.io.example.com",
        "https://myreg.azurecr.io:444",
        "http://myreg.azurecr.io",
        "https://myreg.azurecr.io:none",
        "https://[",
    ],
)
def test_login_of_azure_goes_to_no_other_server(url: str) -> None:
    assert not gets_login(url, "myreg.azurecr.io")
