"""What the work of every command is made of: logins, servers, the key, the log.

Each part is made only when it is asked for: what a command does not need is never fetched, and
most of it is imported while the trust server thinks about its first question.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from azure_pipelines_task_lib import Task
from signimage.authorization import TokenAuthorizer
from signimage.credentials import StoredLogin
from signimage.dockerconfig import user_folder
from signimage.errors import PassphraseError
from signimage.inputs import Command, Inputs, Moment
from signimage.permissions import ELSEWHERE, PIPELINE
from signimage.response import Credentials, CredentialSource
from signimage.transport import Transport
from signimage.trustapi import TrustApi, gets_login
from signimage.variables import REPOSITORY_VARIABLE

if TYPE_CHECKING:
    from signimage.keys import PrivateKey
    from signimage.notary import TrustServer
    from signimage.oci import Repository
    from signimage.registry import Registry
    from signimage.securefiles import SecureFile
    from signimage.signing import Order

# How far the step has come when a part of its work begins.
PERCENT = {
    "Preflight": 5,
    "Find": 10,
    "Build": 10,
    "Read": 10,
    "Push": 60,
    "Sign": 90,
    "Tag": 97,
    "Verify": 50,
}
_HELPER_S = 15.0  # a credential helper on an agent has nobody to ask


class Step:
    """The parts that the work of every command is made of, each made when it is asked for."""

    def __init__(
        self, task: Task, inputs: Inputs, folder: Path, transport: Transport, log: "Log"
    ) -> None:
        self.task = task
        self.inputs = inputs
        self.log = log
        self.transport = transport
        self.folder = folder
        self._asked: TrustApi | None = None
        login = inputs.login
        self.credentials: CredentialSource = (
            login.source(transport, task.set_secret)
            if login
            else self._stored(inputs.repository.host)
        )

    def _stored(self, host: str) -> CredentialSource:
        stored = StoredLogin(user_folder(os.environ), host, os.environ, _HELPER_S)
        return EarlierLogin(stored, self.task)

    def begin(self) -> None:
        """Ask the trust server for the newest root, beside whatever comes next.

        Only with a login of our own: a credential helper could outlive a step that is canceled.
        """
        if self.inputs.login is not None and self.inputs.command is not Command.BUILD:
            self._asked = self._our_trust_api()
            self._asked.begin()

    def registry(self, *, actions: str = "pull,push") -> "Registry":
        """The repository in its registry."""
        from signimage.registry import Registry  # noqa: PLC0415 -- see above

        return Registry(
            self.transport,
            self.inputs.repository,
            self.credentials,
            actions=actions,
            secret=self.task.set_secret,
        )

    def trust_server(self) -> "TrustServer":
        """The repository on its trust server, where this command may write if it signs."""
        from signimage.notary import TrustServer  # noqa: PLC0415 -- see above
        from signimage.pinning import RootPins  # noqa: PLC0415 -- the same

        api = self._asked or self._our_trust_api()
        return TrustServer(api, pins=RootPins(self.inputs.root_keys))

    def _our_trust_api(self) -> TrustApi:
        actions = "pull,push" if self.inputs.command.signs else "pull"
        return self.trust_api(self.inputs.repository, self.inputs.trust_server, actions)

    def trust_api(self, repository: "Repository", url: str, actions: str) -> TrustApi:
        """Any repository on a trust server, with the login that we have for it."""
        is_ours = gets_login(url, repository.host)
        authorizer = TokenAuthorizer(
            self.transport,
            self.login_at(repository.host) if is_ours else None,
            f"repository:{repository.gun}:{actions}",
            advice=PIPELINE if is_ours else ELSEWHERE,
            secret=self.task.set_secret,
        )
        return TrustApi(self.transport, url, repository.gun, authorizer)

    def order(self) -> "Order":
        """What to sign; fetches the key."""
        from signimage.signing import Order  # noqa: PLC0415 -- see above

        inputs = self.inputs
        if inputs.signing_key is None:
            raise AssertionError(f"the command {inputs.command.value} makes no signature")
        key = _signing_key(self.task, self.transport, inputs, inputs.signing_key, self.folder)
        return Order(
            inputs.repository,
            inputs.tags,
            key,
            inputs.digests,
            is_recursive=inputs.is_recursive,
            needs_signature_first=inputs.sign_before_tag is Moment.REQUIRE,
        )

    def login_at(self, host: str) -> CredentialSource:
        """The login at a registry: the connection's at its own, else that of an earlier step."""
        return self.credentials if host == self.inputs.repository.host else self._stored(host)


class EarlierLogin:
    """What an earlier step logged in with, told to the log as a secret before it is used."""

    def __init__(self, stored: StoredLogin, task: Task) -> None:
        self._stored = stored
        self._task = task

    def current(self) -> Credentials | None:
        """The login as it is now, if there is one."""
        login = self._stored.current()
        if login is not None:
            self._task.set_secret(login.password)
        return login


def _signing_key(
    task: Task, transport: Transport, inputs: Inputs, secure: "SecureFile", folder: Path
) -> "PrivateKey":
    from signimage.keyfile import KeyFile  # noqa: PLC0415 -- see above
    from signimage.keystore import KeyStore  # noqa: PLC0415 -- the same
    from signimage.securefiles import fetch_secure_file  # noqa: PLC0415 -- the same

    data = fetch_secure_file(transport, secure)
    file = KeyFile.parse(data, what=secure.what)
    try:
        key = file.decrypt(os.fsencode(inputs.passphrase) or None)
    except PassphraseError as error:
        hint = (
            f"Check the value of {REPOSITORY_VARIABLE}; it is the passphrase of this key"
            if inputs.passphrase
            else f"Map it to the step from a secret variable, in env: {REPOSITORY_VARIABLE}"
        )
        raise PassphraseError(str(error), hint=hint) from error
    if not file.encrypted:
        task.warning(f"{file.what} is not encrypted; whoever gets the file can sign with it")
    else:
        KeyStore(folder / "trust").install(data, key.public_key.canonical_id)
    return key


def is_debugged(task: Task) -> bool:
    """Tell whether the log of this step is to say everything but secrets."""
    return task.get_variable("System.Debug").lower() == "true"


def below_root(task: Task, path: str) -> Path:
    """Where a path that a person typed leads to."""
    return Path(task.get_variable("System.DefaultWorkingDirectory") or ".") / path


class Log:
    """The progress of the use case as groups of the agent's log."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._is_open = False
        self.current = ""

    def step(self, text: str) -> None:
        """Begin a part of the work, in a group of its own."""
        self.close()
        self.current = text
        self._task.set_progress(PERCENT[text], text)
        self._task.group(text)
        self._is_open = True

    def done(self, text: str) -> None:
        """Tell what a part of the work came to."""
        self._task.write(text)

    def close(self) -> None:
        """End the open group, if there is one."""
        if self._is_open:
            self._task.endgroup()
        self._is_open = False
