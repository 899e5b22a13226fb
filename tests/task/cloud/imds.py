"""A stand-in for a virtual machine's identity service (IMDS): one identity, or none.

Plain HTTP, as on 169.254.169.254; whoever asks through a proxy or without `Metadata: true` might
be asking on behalf of somebody else, and is refused.
"""

import time

from task.cloud.entra import AUDIENCES, Entra, Identity, json_reply
from task.cloud.server import Hop, Ledger, Reply, Request, Violation, check

_PATH = "/metadata/identity/oauth2/token"
_LIFETIME_S = 86_399


class Imds:
    """The service of one machine; `identity` is None where the machine has none."""

    def __init__(self, ledger: Ledger, entra: Entra) -> None:
        self.ledger = ledger
        self.entra = entra
        self.identity: Identity | None = None

    def answer(self, request: Request) -> Reply:
        """Answer one request."""
        return self.ledger.answer(Hop.IMDS, request, self._truth)

    def _truth(self, request: Request) -> Reply:
        if (request.method, request.path) != ("GET", _PATH):
            raise Violation(f"{request.line()}: expected GET {_PATH}")
        fields = check(
            request,
            query={"api-version": "2018-02-01", "resource": None},
            headers={"metadata": "true"},
        )
        resource = fields["resource"]
        if resource.rstrip("/") not in AUDIENCES:
            raise Violation(f"{request.line()}: query: resource: not one of a registry's")
        if self.identity is None:
            return no_identity()
        now = int(time.time())
        document = {
            "access_token": self.entra.issue(self.identity, resource),
            "client_id": self.identity.client_id,
            "expires_in": str(_LIFETIME_S),
            "expires_on": str(now + _LIFETIME_S),
            "ext_expires_in": str(_LIFETIME_S),
            "not_before": str(now),
            "resource": resource,
            "token_type": "Bearer",
        }
        return json_reply(200, document)


def no_identity() -> Reply:
    """Return what a machine without an identity answers."""
    document = {"error": "invalid_request", "error_description": "Identity not found"}
    return json_reply(400, document)
