"""A small registry on loopback with accounts, which can lie."""

import json
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

from signimage.authorization import Login
from signimage.oci import Digest, Repository
from signimage.permissions import PIPELINE, LoginAdvice
from signimage.registry import Registry
from signimage.transport import Credentials, Transport
from unit.small_server import Reply, Request, SmallServer

OCI = "application/vnd.oci.image.manifest.v1+json"
CONTENT = json.dumps({"schemaVersion": 2, "mediaType": OCI, "layers": []}).encode()
GOOD = Credentials("me", "pass:wörd %;")
BAD = Credentials("me", "s3cret-but-wrong")
IDENTITY = Credentials("", "l0ng-lived&=%ü", is_identity_token=True)
UNAUTHORIZED = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}'


class SmallRegistry:
    """A registry with token authentication for one user and one repository, `team/app`.

    `lie` may replace any reply; it gets the request and the honest reply.
    """

    def __init__(self, scheme: str = "Bearer") -> None:
        self.lie: Callable[[Request, Reply], Reply] = lambda _, reply: reply
        self.granted = ["pull", "push"]
        self.refused: set[str] = set()  # tags that nobody may move
        self._scheme = scheme
        self._stored = {"1.2": (OCI, CONTENT)}
        self.server = SmallServer(lambda request: self.lie(request, self._honest(request)))

    def _honest(self, request: Request) -> Reply:
        path = urlsplit(request.path).path
        given_ = request.headers["Authorization"] or ""
        if path == "/token":
            honest = self._token if request.method == "GET" else self._exchange
            return honest(request)
        # Whoever may push may end an upload.
        method = "POST" if "/uploads/" in path else request.method
        if not self._is_allowed(method, given_):
            return Reply(401, UNAUTHORIZED, {"WWW-Authenticate": self.challenge()})
        if path == "/v2/team/app/blobs/uploads/" and request.method == "POST":
            return Reply(202, headers={"Location": "/v2/team/app/blobs/uploads/42?_state=x"})
        if path.endswith("/uploads/42") and request.method == "DELETE":
            return Reply(204)
        return self._manifest(request, path.removeprefix("/v2/team/app/manifests/"))

    def _token(self, request: Request) -> Reply:
        if request.headers["Authorization"] != GOOD.basic():
            return Reply(401, b'{"details":"incorrect username or password"}')
        return self._grant(parse_qs(urlsplit(request.path).query)["scope"][0])

    def _exchange(self, request: Request) -> Reply:
        """Take an identity token, as OAuth2 does."""
        form = parse_qs(request.body.decode())
        if form["refresh_token"] != [IDENTITY.password]:
            return Reply(400, b'{"error":"invalid_grant","error_description":"expired"}')
        return self._grant(form["scope"][0])

    def _grant(self, scope: str) -> Reply:
        asked = scope.rpartition(":")[2].split(",")
        granted = ",".join(action for action in asked if action in self.granted)
        return Reply(200, json.dumps({"token": f"may-{granted}", "expires_in": 300}).encode())

    def _is_allowed(self, method: str, given_: str) -> bool:
        if self._scheme == "Basic":
            return given_ == GOOD.basic()
        actions = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}
        action = actions.get(method, "push")
        return given_.startswith("Bearer may-") and action in given_

    def challenge(self) -> str:
        """What a visitor without the right is told: where to go for it."""
        if self._scheme == "Basic":
            return 'Basic realm="reg"'
        origin = self.server.origin
        return f'Bearer realm="{origin}/token?a=b",service="reg",scope="repository:team/app:pull"'

    def _manifest(self, request: Request, reference: str) -> Reply:
        if request.method == "PUT" and reference in self.refused:
            return Reply(400, b'{"errors":[{"code":"DENIED","message":"locked"}]}')
        if request.method == "PUT":
            self._stored[reference] = (request.headers["Content-Type"], request.body)
            digest = Digest.of(request.body).text
            return Reply(201, headers={"Docker-Content-Digest": digest})
        if request.method == "DELETE":
            return Reply(404 if self._stored.pop(reference, None) is None else 202)
        for tag, (kind, content) in self._stored.items():
            digest = Digest.of(content).text
            if reference in (tag, digest):
                headers = {"Content-Type": kind, "Docker-Content-Digest": digest}
                return Reply(200, content, headers)
        return Reply(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"unknown"}]}')


def client(
    transport: Transport, small: SmallRegistry, login: Login = GOOD, advice: LoginAdvice = PIPELINE
) -> Registry:
    """What we make of that registry."""
    return Registry(transport, Repository(small.server.host, "team/app"), login, advice=advice)


def to(path: str, lie: Callable[[Reply], Reply]) -> Callable[[Request, Reply], Reply]:
    """Lie about one path, once the asker is authenticated."""

    def tell(request: Request, honest: Reply) -> Reply:
        return lie(honest) if path in request.path and honest.status < 400 else honest

    return tell
