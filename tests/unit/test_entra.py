"""Claims about `signimage.entra` as far as it needs no conversation; that is in `test_acr`."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signimage.entra import (
    AUTHORITIES,
    METADATA_HOST,
    FederatedIdentity,
    IdTokenRequest,
    check_authority,
    check_tenant,
    entra_refusal,
    metadata_host,
)
from signimage.errors import InputError, UnauthorizedError, UnavailableError
from signimage.response import Response
from signimage.transport import TransportSettings
from unit.small_cloud import CLIENT, JOB_TOKEN, TENANT, jwt

# --- what a person or the agent gave ----------------------------------------------------------


@pytest.mark.parametrize("host", sorted(AUTHORITIES))
def test_authority_is_one_of_microsofts(host: str) -> None:
    assert (
        check_authority(f"https://{host}") == check_authority(f" HTTPS://{host.upper()}/") == host
    )


@pytest.mark.parametrize(
    "text",
    [
        "http://login.microsoftonline.com/",
        "login.microsoftonline.com",
        "https://login.microsoftonline.com.evil.example/",
        "https://evil.example/login.microsoftonline.com",
        "https://login.microsoftonline.com:8443/",
        "https://login.microsoftonline.com@evil.example/",
        "https://me:s3cret@login.microsoftonline.com/",
        "https://login.microsoftonline.com/common",
        "https://login.microsoftonline.com/?x",
        "https://login.microsoftonline.com:x/",
        "https://[login",
        "",
    ],
)
def test_another_authority_gets_no_token(text: str) -> None:
    with pytest.raises(InputError, match="expected an authority of Microsoft Entra ID") as caught:
        check_authority(text)
    assert "s3cret" not in caught.value.sentence


@pytest.mark.parametrize("text", [TENANT, TENANT.upper(), "contoso.onmicrosoft.com", f" {TENANT} "])
def test_tenant_is_an_id_or_a_domain(text: str) -> None:
    assert check_tenant(text) == text.strip()


@pytest.mark.parametrize(
    "text", ["", "common", "..", "a/b", "a.b/../c", f"{TENANT}?x", "a..b", "-a.b", "a.b\n", "ä.b"]
)
def test_tenant_is_nothing_else(text: str) -> None:
    if text.strip() != text:
        assert check_tenant(text) == text.strip()
        return
    with pytest.raises(InputError, match="expected a tenant ID, got"):
        check_tenant(text)


@given(st.text(max_size=60))
def test_any_text_is_an_authority_and_a_tenant_or_refused(text: str) -> None:
    for check in (check_authority, check_tenant, metadata_host):
        with suppress(InputError):
            assert "@" not in check(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("", METADATA_HOST),
        ("http://169.254.169.254/", "http://169.254.169.254"),
        ("http://127.0.0.1:4242", "http://127.0.0.1:4242"),
        ("http://localhost:80/", "http://localhost:80"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_managed_identity_is_asked_for_on_this_machine(text: str, host: str) -> None:
    assert metadata_host(text) == host


@pytest.mark.parametrize(
    "text",
    [
        "http://evil.example",
        "https://127.0.0.1",
        "http://169.254.169.254.evil.example",
        "http://evil.example\\.localhost",
        "http://169.254.169.254/x",
        "http://x@127.0.0.1",
        "127.0.0.1",
        "http://127.0.0.1:x",
        "http://127.0.0.1?x",
    ],
)
def test_managed_identity_is_asked_for_nowhere_else(text: str) -> None:
    with pytest.raises(
        InputError, match=r"^AZURE_POD_IDENTITY_AUTHORITY_HOST: expected http://169"
    ):
        metadata_host(text)


# --- refusals ---------------------------------------------------------------------------------

IDENTITY = FederatedIdentity(
    tenant=TENANT,
    client_id=CLIENT,
    authority="login.microsoftonline.com",
    audience="https://management.core.windows.net/",
    id_token=IdTokenRequest("https://dev.azure.com/org/oidctoken", "id", JOB_TOKEN),
)
KNOWN = {"iss": "https://issuer/v2.0", "sub": "sc://org/p/c", "aud": "api://AzureADTokenExchange"}
TAIL = "Trace ID: 1-2 Correlation ID: 3-4 Timestamp: 2026-11-22 05:00:00Z"


def answer(status: int, description: object) -> Response:
    body = json.dumps({"error": "invalid_client", "error_description": description}).encode()
    return Response(status, {}, body, "https://login.microsoftonline.com/t/oauth2/v2.0/token")


@pytest.mark.parametrize("code", [70021, 700211, 700212, 700213])
def test_missing_federation_is_answered_with_what_to_configure(code: int) -> None:
    said = f"AADSTS{code}: No matching federated identity record found for presented assertion "
    error = entra_refusal(answer(401, f"{said}subject 'x'. Check. {TAIL}"), IDENTITY, KNOWN)
    assert error.sentence == (
        "Microsoft Entra ID https://login.microsoftonline.com does not accept the service "
        f"connection (it answered 401: AADSTS{code}: No matching federated identity record found "
        "for presented assertion subject 'x'). Add a federated credential with exactly issuer "
        "https://issuer/v2.0, subject sc://org/p/c, audience api://AzureADTokenExchange to the "
        f"application {CLIENT}. Where the log masks them, the service connection's page in the "
        "project settings shows them."
    )


@pytest.mark.parametrize(
    ("description", "shown", "hint"),
    [
        (f"AADSTS7000222: The provided client secret keys for app 'a' are expired. Visit {TAIL}",
         "AADSTS7000222: The provided client secret keys for app 'a' are expired",
         "The client secret has expired: create another"),
        (f"AADSTS7000215: Invalid client secret provided.\r\n{TAIL}",
         "AADSTS7000215: Invalid client secret provided", "the value of a client secret, not its"),
        (f"AADSTS700024: Client assertion is not within its valid time range. Current {TAIL}",
         "AADSTS700024: Client assertion is not within its valid time range",
         "out of its time when it arrived: run the job again"),
        (f"AADSTS90002: Tenant 'x' not found. Check {TAIL}", "AADSTS90002: Tenant 'x' not found",
         f"Check the tenant ID {TENANT} of the service connection"),
        (f"AADSTS700016: Application with identifier 'a' was not found {TAIL}",
         "AADSTS700016: Application with identifier 'a' was not found",
         f"the application {CLIENT} was deleted"),
        (f"AADSTS53003: Access has been blocked. {TAIL}", "AADSTS53003: Access has been blocked",
         "conditional access policy"),
        (f"AADSTS123456: Something new. {TAIL}", "AADSTS123456: Something new",
         "Look the code up in Microsoft's list"),
        (f"AADSTS123456: {TAIL}", "AADSTS123456", "Look the code up"),
        ("AADSTS123456:", "AADSTS123456", "Look the code up"),
        ("AADSTS50027: token eyJhbGciOiJSUzI1NiJ9.eyJzIjoxfQ.c2VjcmV0 is bad. x",
         "AADSTS50027: token *** is bad", "Look the code up"),
        ("go away", "invalid_client: go away", "Check the service connection"),
        (7, "invalid_client", "Check the service connection"),
    ],
)  # fmt: skip
def test_refusal_has_the_code_the_first_sentence_and_a_remedy(
    description: object, shown: str, hint: str
) -> None:
    error = entra_refusal(answer(400, description), IDENTITY, KNOWN)
    assert type(error) is UnauthorizedError
    assert str(error).endswith(f"does not accept the service connection (it answered 400: {shown})")
    assert hint in error.hint
    assert "Timestamp" not in error.sentence


def test_refusal_without_claims_still_says_what_to_do() -> None:
    error = entra_refusal(answer(401, "AADSTS700213: No match."), IDENTITY, {})
    assert "exactly the issuer, subject and audience that Entra names" in error.hint


def test_braces_in_a_claim_are_text() -> None:
    error = entra_refusal(answer(401, "AADSTS700213: No."), IDENTITY, {"sub": "{tenant}{0}"})
    assert "subject {tenant}{0} to" in error.hint


def test_trouble_of_entras_own_passes() -> None:
    error = entra_refusal(answer(503, f"AADSTS90033: A transient error. {TAIL}"), IDENTITY, KNOWN)
    assert type(error) is UnavailableError
    assert "it answered 503: AADSTS90033: A transient error" in str(error)
    assert error.hint == "Run the job again later"


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: json.dumps(text).encode()))
def test_any_answer_becomes_an_error(body: bytes) -> None:
    response = Response(401, {}, body, "https://login.microsoftonline.com/x")
    error = entra_refusal(response, IDENTITY, {"sub": jwt(a=1)})
    assert type(error) is UnauthorizedError


def test_secrets_of_an_identity_are_not_shown() -> None:
    assert "s3cret" not in repr(IDENTITY)


def test_metadata_service_is_never_asked_through_a_proxy() -> None:
    """Another machine's proxy would answer with another machine's identity."""
    settings = TransportSettings().with_proxies({"http_proxy": "http://proxy.example:3128"})
    assert settings.proxies.for_url(f"{METADATA_HOST}/metadata/identity/oauth2/token") is None
