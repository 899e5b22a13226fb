"""A job whose registry is in the cloud, and the owner of repositories there.

Both are those of `task.pipeline`, with another way to the registry; and a run is good only if no
request on it was other than documented.
"""

import base64
import http.client
import json
import ssl
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from peers.stack import Stack
from peers.tokens import Right
from signimage.authorization import TokenAuthorizer
from signimage.notary import TrustServer
from signimage.transport import Credentials, Transport, TransportSettings
from signimage.trustapi import TrustApi
from task.agent import Agent, Endpoint, Step, StepResult
from task.cloud.subscription import Cloud
from task.devops import DevOps
from task.pipeline import ADMINISTRATION, Job, Owner, SigningKey
from task.secrecy import everything_below, forms, leaks, leaks_in_files

_IMAGE_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


class CloudOwner(Owner):
    """An owner who administers trust data in the cloud, with an application of their own."""

    def __init__(self, cloud: Cloud, folder: Path) -> None:
        assert cloud.stack is not None
        super().__init__(cloud.stack, folder)
        self.cloud = cloud

    def docker(self, *arguments: str, trust: str = "0") -> str:
        """Run the Docker CLI through the proxy, and return what it printed."""
        environ = {**ADMINISTRATION, **self.cloud.environ, "DOCKER_CONTENT_TRUST": trust}
        return self.stack.docker(*arguments, config=self.config, env=environ).stdout

    def notary(self, *arguments: str, trust_dir: Path | None = None) -> str:
        """Run the notary CLI through the proxy, and return what it printed."""
        pair = f"{self.stack.username}:{self.stack.password}".encode()
        login = {"NOTARY_AUTH": base64.b64encode(pair).decode()}
        environ = {**ADMINISTRATION, **self.cloud.environ, **login}
        folder = trust_dir or self.store.directory
        return self.stack.notary(*arguments, trust_dir=folder, env=environ).stdout

    def _server(self, gun: str) -> TrustServer:
        proxy = {"https_proxy": self.cloud.side_gate.url}
        settings = TransportSettings(ca_files=(self.stack.ca_file,)).with_proxies(proxy)
        transport = Transport(settings)
        login = Credentials(self.stack.username, self.stack.password)
        authorizer = TokenAuthorizer(transport, login, f"repository:{gun}:pull,push")
        return TrustServer(TrustApi(transport, self.stack.trust_server, gun, authorizer))


@dataclass(slots=True)
class CloudJob(Job):
    """A job on an agent whose only way out is the company's proxy."""

    cloud: Cloud

    @classmethod
    def begin(cls, cloud: Cloud, task: Path, agent: Agent, devops: DevOps, path: str) -> "CloudJob":
        """Return a job on *agent*, after telling the agent and the cloud of each other.

        Its connection is to be added.
        """
        assert cloud.stack is not None
        known = agent.environment({"inputs": []}, Step({}), {})
        plan, run = known["SYSTEM_PLANID"], known["SYSTEM_JOBID"]
        oidc = (
            f"{agent.collection_uri}{agent.project_id}/_apis/distributedtask/hubs/"
            f"{agent.host_type}/plans/{plan}/jobs/{run}/oidctoken"
        )
        cloud.oidc.open_job(oidc, agent.token)
        devops.oidc = cloud.oidc.answer
        agent.variables |= {
            "Agent.CAInfo": str(cloud.authority.certificate),
            "Agent.ProxyUrl": cloud.gateway.url,
            "System.OidcRequestUri": oidc,
        }
        imds = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": f"http://127.0.0.1:{cloud.imds_port}"}
        agent.environ = {**agent.environ, "DOCKER_HOST": cloud.stack.docker_host, **imds}
        nothing = Endpoint(str(uuid.uuid4()), "", "None", {})
        return cls(cloud.stack, task, agent, devops, nothing, path, cloud)

    def log_in(self, connection: Endpoint) -> None:
        """Let the usual step use *connection*."""
        self.connection = self.connect(connection)

    def step(self, key: SigningKey, /, **inputs: str) -> Step:
        """Return a step that finds the authority and the trust server by itself."""
        return Job.step(self, key, **{"caCertificate": "", "trustServer": "", **inputs})

    def run(self, step: Step) -> StepResult:
        """Run *step*; the requests of everything before it are forgotten."""
        self.cloud.ledger.forget()
        result = Job.run(self, step)
        violations = self.cloud.ledger.violations
        assert not violations, "\n".join([*violations, *result.log])
        self._check_secrecy(result)
        return result

    def _check_secrecy(self, result: StepResult) -> None:
        """Look for every secret in everything that the step wrote and left."""
        tickets = (file.ticket for file in self.agent.secure_files)
        secrets = {
            **self.cloud.secrets,
            "passphrase": forms(self.agent.secret_variables["signingPassphrase"]),
            "job token": forms(self.agent.token),
            "ticket": set().union(*map(forms, tickets)),
        }
        spoken = "\n".join([*result.spoken, *result.log, result.message, result.summary])
        found = leaks(secrets, spoken.encode())
        found |= leaks_in_files(secrets, everything_below(self.agent.folder))
        assert not found, found

    def pushed(self, gun: str = "") -> dict[str, str]:
        """Return tag -> digest as the registry has them."""
        path = (gun or self.gun).partition("/")[2]
        registry = self._behind().registry
        scope = f"repository:{path}:pull"

        def get(rest: str) -> tuple[dict[str, str], bytes] | None:
            connection = http.client.HTTPConnection(registry, timeout=60)
            return self._get(connection, f"/v2/{path}/{rest}", scope)

        listing = get("tags/list")
        tags = json.loads(listing[1])["tags"] or [] if listing else []
        found = {tag: get(f"manifests/{tag}") for tag in tags}
        return {tag: answer[0]["docker-content-digest"] for tag, answer in found.items() if answer}

    def trusted(self, gun: str = "") -> bytes | None:
        """Return the trust server's timestamp of the repository; any publication changes it."""
        gun = gun or self.gun
        behind = self._behind()
        context = ssl.create_default_context(cafile=str(behind.ca_file))
        host = urlsplit(behind.trust_server).netloc
        connection = http.client.HTTPSConnection(host, timeout=60, context=context)
        path = f"/v2/{gun}/_trust/tuf/timestamp.json"
        answer = self._get(connection, path, f"repository:{gun}:pull")
        return answer[1] if answer else None

    def _behind(self) -> Stack:
        assert self.cloud.acr.behind is not None
        return self.cloud.acr.behind

    def _get(
        self, connection: http.client.HTTPConnection, path: str, scope: str
    ) -> tuple[dict[str, str], bytes] | None:
        """Return headers (in lower case) and body, None if there is no such thing."""
        honest = replace(self.cloud.realm, claims={})
        token = honest.token("judge", Right.PULL, scope)
        headers = {"Authorization": f"Bearer {token}", "Accept": _IMAGE_TYPE}
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        assert answer.status in (200, 404), body
        found = {name.lower(): value for name, value in answer.getheaders()}
        return (found, body) if answer.status == 200 else None
