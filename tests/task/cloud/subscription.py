"""A cloud with one tenant, one registry and one machine, behind one proxy; and a job in it.

The rules:

1. Only names are imitated, by the proxy; whoever wants to reach them has to use it, and has to
   believe its authority: the worker by the agent's settings, dockerd and the judges by theirs.
2. What is below the registry's `/v2/` is the real registry and the real trust server.
"""

import ssl
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from peers.authority import Authority
from peers.guarded import guarded
from peers.stack import Stack
from peers.tokens import Realm, Right, TokenSigner
from task.cloud import entra
from task.cloud.acr import ACR_IMAGE_SIGNER, ACR_PUSH, Acr
from task.cloud.entra import Entra, Identity
from task.cloud.gateway import Gateway
from task.cloud.imds import Imds
from task.cloud.oidc import Oidc
from task.cloud.server import Hop, Ledger, serve
from task.secrecy import forms

REGISTRY = "myreg.azurecr.io"


class Cloud:
    """Everything together.

    `gateway` is the worker's, `side_gate` that of the engine, of the judges and of the owner.
    `stack` has the registry under its public name; it is there while `serve` lasts.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority(folder, "company authority")
        self.ledger = Ledger()
        self.gateway = Gateway(self.ledger)
        self.side_gate = Gateway(self.ledger, Hop.SIDE_GATE)
        self.signer = signer = TokenSigner(self.authority, "Azure Container Registry")
        self.entra = Entra(self.ledger, signer)
        self.realm = Realm(f"https://{REGISTRY}/oauth2/token", REGISTRY, signer)
        self.acr = Acr(self.ledger, self.entra, self.realm, REGISTRY)
        self.imds = Imds(self.ledger, self.entra)
        self.oidc = Oidc(self.ledger, self.entra, signer)
        self.imds_port = 0
        self.owner = self.application(ACR_PUSH | ACR_IMAGE_SIGNER)
        self.stack: Stack | None = None

    @contextmanager
    def serve(self, stack: Stack) -> Iterator["Cloud"]:
        """Start everything, with an engine that uses the proxy; stop it with the block."""
        with ExitStack() as running:
            self.imds_port = running.enter_context(serve(self.ledger, self.imds.answer))
            for host, site in ((REGISTRY, self.acr), (entra.HOST, self.entra)):
                port = running.enter_context(serve(self.ledger, site.answer, self._tls(host)))
                self.gateway.names[f"{host}:443"] = self.side_gate.names[f"{host}:443"] = port
            for gateway in (self.gateway, self.side_gate):
                running.enter_context(gateway.serve())
            behind = running.enter_context(
                guarded(stack, self.folder, self.authority, self.realm, engine=self.environ)
            )
            self.acr.behind = behind
            self.stack = replace(
                behind,
                registry=REGISTRY,
                trust_server=f"https://{REGISTRY}",
                username=self.owner.client_id,
                password=self.owner.secret,
            )
            yield self

    def reset(self) -> None:
        """Begin a new test: everything works, and nothing has happened yet."""
        self.ledger.let_go.set()
        self.ledger.reset()
        self.gateway.reset()
        self.acr.reset()
        self.realm.claims = {}
        self.imds.identity = None
        self.entra.assertions.clear()
        self.entra.grants.clear()
        self.signer.issued.clear()

    def application(self, rights: Right, subject: str = "") -> Identity:
        """Register an application, with a federated credential for *subject* if there is one."""
        issuer = f"https://login.microsoftonline.com/{self.entra.tenant}/v2.0" if subject else ""
        identity = Identity(str(uuid.uuid4()), rights, subject, issuer)
        self.entra.identities[identity.client_id] = identity
        return identity

    @property
    def secrets(self) -> dict[str, set[bytes]]:
        """What nobody may see: secrets of applications, and every token that was given out."""
        applications = (identity.secret for identity in self.entra.identities.values())
        # Of a token, what tells it from others; what it claims is no secret.
        tokens = (part for token in self.signer.issued for part in (token, token.rsplit(".")[-1]))
        return {
            "client secret": set().union(*map(forms, applications)),
            "token": set().union(*map(forms, tokens)),
            "proxy password": forms(self.gateway.account.partition(":")[2] or "no-such-password"),
        }

    @property
    def environ(self) -> dict[str, str]:
        """What Docker's programs need to reach the names."""
        return {"HTTPS_PROXY": self.side_gate.url, "SSL_CERT_FILE": str(self.authority.certificate)}

    def _tls(self, host: str) -> ssl.SSLContext:
        issued = self.authority.issue(host, host)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(issued.certificate, issued.key)
        return context
