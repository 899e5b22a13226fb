"""A stand-in for the part of Azure DevOps that tells Entra which service connection this is.

`POST {collection}{project}/_apis/distributedtask/hubs/{hub}/plans/{plan}/jobs/{job}/oidctoken`
with the job's own token gives a short-lived one, whose subject is the connection.
"""

from collections.abc import Mapping
from urllib.parse import urlsplit

from peers.tokens import TokenSigner
from task.cloud.entra import Entra, Identity, json_reply
from task.cloud.server import Hop, Ledger, Reply, Request, Violation, check

AUDIENCE = "api://AzureADTokenExchange"
_LIFETIME_S = 600


class Oidc:
    """The tokens of one job: `uri` is System.OidcRequestUri, `token` the job's own.

    `connections` has the identities of the job's service connections by their ids.
    """

    def __init__(self, ledger: Ledger, entra: Entra, signer: TokenSigner) -> None:
        self.ledger = ledger
        self.entra = entra
        self.signer = signer
        self.uri = ""
        self.token = ""
        self.connections: dict[str, Identity] = {}

    def open_job(self, uri: str, token: str) -> None:
        """Begin a new job."""
        self.uri, self.token = uri, token
        self.connections = {}

    def answer(self, request: Request) -> Reply:
        """Answer one request to the collection that is a POST."""
        return self.ledger.answer(Hop.OIDC, request, self._truth)

    def _truth(self, request: Request) -> Reply:
        expected = urlsplit(self.uri)
        if (request.method, request.path) != ("POST", expected.path):
            raise Violation(f"{request.line()}: expected POST {expected.path}")
        fields = check(
            request,
            query={"api-version": "7.1", "serviceConnectionId": None},
            headers={
                "authorization": f"Bearer {self.token}",
                "content-type": "application/json",
                "x-tfs-fedauthredirect": "Suppress",
            },
        )
        if request.body not in (b"", b"{}"):
            raise Violation(f"{request.line()}: expected no body")
        identity = self.connections.get(fields["serviceConnectionId"])
        if identity is None:
            message = "The service connection does not exist, or this job may not use it."
            return json_reply(404, {"$id": "1", "message": message, "typeKey": "NotFound"})
        claims = {"iss": identity.issuer, "sub": identity.subject, "aud": AUDIENCE}
        return json_reply(200, {"oidcToken": self.issue(claims)})

    def issue(self, claims: Mapping[str, str]) -> str:
        """Return a token with these claims, which Entra knows of."""
        token = self.signer.sign(claims, _LIFETIME_S)
        self.entra.assertions[token] = claims
        return token
