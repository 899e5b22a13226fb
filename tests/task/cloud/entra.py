"""A stand-in for Microsoft Entra ID: one tenant, its applications, and its error documents.

It checks the client-credentials request with a federated assertion (OAuth 2.0, RFC 7523) to the
last field, gives out tokens that it remembers, and refuses with the documents of the real one.
"""

import json
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from peers.tokens import Right, TokenSigner
from task.cloud.server import Hop, Ledger, Reply, Request, Violation, check

HOST = "login.microsoftonline.com"
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# Both spellings of Azure Resource Manager, and the registries' own.
AUDIENCES = frozenset(
    {
        "https://management.azure.com",
        "https://management.core.windows.net",
        "https://containerregistry.azure.net",
    }
)
_LIFETIME_S = 3600


@dataclass(frozen=True, slots=True)
class Identity:
    """An application or a machine, and what it may do in the registry.

    `subject` and `issuer` are of its federated credential, if it has one.
    """

    client_id: str
    rights: Right
    subject: str = ""
    issuer: str = ""
    secret: str = field(default_factory=lambda: secrets.token_urlsafe(30), repr=False)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a token of Entra stands for."""

    identity: Identity
    audience: str


class Entra:
    """One tenant; `assertions` are the tokens of Azure DevOps by their text, with their claims."""

    def __init__(self, ledger: Ledger, signer: TokenSigner) -> None:
        self.ledger = ledger
        self.tenant = str(uuid.uuid4())
        self.identities: dict[str, Identity] = {}
        self.assertions: dict[str, Mapping[str, Any]] = {}
        self.grants: dict[str, Grant] = {}
        self._signer = signer

    def issue(self, identity: Identity, audience: str) -> str:
        """Return a token of *identity* for *audience*."""
        claims = {"aud": audience, "oid": str(uuid.uuid4()), "appid": identity.client_id}
        issuer = f"https://sts.windows.net/{self.tenant}/"
        token = self._signer.sign({**claims, "iss": issuer, "tid": self.tenant}, _LIFETIME_S)
        self.grants[token] = Grant(identity, audience.rstrip("/"))
        return token

    def answer(self, request: Request) -> Reply:
        """Answer one request to this host."""
        return self.ledger.answer(Hop.ENTRA, request, self._truth)

    def _truth(self, request: Request) -> Reply:
        parts = request.path.split("/")
        if request.method != "POST" or parts[2:] != ["oauth2", "v2.0", "token"]:
            raise Violation(f"{request.line()}: expected POST /<tenant>/oauth2/v2.0/token")
        fields = check(
            request,
            form={
                "client_id": None,
                "client_assertion": None,
                "client_assertion_type": ASSERTION_TYPE,
                "grant_type": "client_credentials",
                "scope": None,
            },
        )
        resource, dot, default = fields["scope"].rpartition("/.default")
        if not dot or default or resource.rstrip("/") not in AUDIENCES:
            raise Violation(f"{request.line()}: form: scope: not one of a registry's audiences")
        if parts[1] != self.tenant:
            return tenant_not_found(parts[1])
        return self._token(fields, resource)

    def _token(self, fields: Mapping[str, str], resource: str) -> Reply:
        identity = self.identities.get(fields["client_id"])
        claims = self.assertions.get(fields["client_assertion"])
        if identity is None:
            return application_not_found(fields["client_id"])
        if claims is None:
            return refused("invalid_client", 50013, "Assertion failed signature validation.")
        if (claims["sub"], claims["iss"]) != (identity.subject, identity.issuer):
            return no_matching_identity(claims["sub"])
        token = self.issue(identity, resource)
        document = {
            "token_type": "Bearer",
            "expires_in": _LIFETIME_S - 1,
            "ext_expires_in": _LIFETIME_S - 1,
            "access_token": token,
        }
        return json_reply(200, document)


def json_reply(status: int, document: Mapping[str, Any]) -> Reply:
    """Return *document* as an answer."""
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Reply(status, json.dumps(document).encode(), headers)


def refused(error: str, code: int, description: str, status: int = 401) -> Reply:
    """Return Entra's error document, with the identifiers and times that follow each sentence."""
    trace, correlation = str(uuid.uuid4()), str(uuid.uuid4())
    now = datetime.now(timezone.utc)
    tail = f"Trace ID: {trace} Correlation ID: {correlation} Timestamp: {now:%Y-%m-%d %H:%M:%SZ}"
    document = {
        "error": error,
        "error_description": f"AADSTS{code}: {description} {tail}",
        "error_codes": [code],
        "timestamp": f"{now:%Y-%m-%d %H:%M:%SZ}",
        "trace_id": trace,
        "correlation_id": correlation,
        "error_uri": f"https://{HOST}/error?code={code}",
    }
    return json_reply(status, document)


def expired_secret(client_id: str) -> Reply:
    """Return AADSTS7000222."""
    return refused(
        "invalid_client",
        7000222,
        f"The provided client secret keys for app '{client_id}' are expired. Visit the Azure "
        "portal to create new keys for your app: https://aka.ms/NewClientSecret, or consider "
        "using certificate credentials for added security: https://aka.ms/certCreds.",
    )


def no_matching_identity(subject: str) -> Reply:
    """Return AADSTS700213."""
    return refused(
        "invalid_client",
        700213,
        f"No matching federated identity record found for presented assertion subject "
        f"'{subject}'. Check your federated identity credential Subject, Audience and Issuer "
        "against the presented assertion. "
        "https://learn.microsoft.com/entra/workload-id/workload-identity-federation",
    )


def outside_its_time() -> Reply:
    """Return AADSTS700024: the assertion is too old, or one of the clocks is wrong."""
    return refused(
        "invalid_client",
        700024,
        "Client assertion is not within its valid time range. Current time: "
        "2026-11-22T05:00:00.0000000Z, assertion valid from 2026-11-22T06:00:00.0000000Z, expiry "
        "time of assertion 2026-11-22T06:10:00.0000000Z. Review the documentation at "
        "https://learn.microsoft.com/entra/identity-platform/certificate-credentials .",
    )


def tenant_not_found(tenant: str) -> Reply:
    """Return AADSTS90002."""
    return refused(
        "invalid_request",
        90002,
        f"Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are "
        "signing into the correct cloud. Check with your subscription administrator, this may "
        "happen if there are no active subscriptions for the tenant.",
        status=400,
    )


def application_not_found(client_id: str) -> Reply:
    """Return AADSTS700016."""
    return refused(
        "unauthorized_client",
        700016,
        f"Application with identifier '{client_id}' was not found in the directory 'Company'. "
        "This can happen if the application has not been installed by the administrator of the "
        "tenant or consented to by any user in the tenant.",
        status=400,
    )
