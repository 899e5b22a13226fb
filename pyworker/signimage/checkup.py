"""What `signimage doctor` asks of servers, keys and settings about one repository.

The rules of this file:

1. Nothing is changed: on the servers nothing is left, and nothing is kept of what they show, the
   root key of a first visit least of all.
2. Each question is the one that the work itself would ask, so that its answer is the same: a push
   is tried by beginning an upload, publishing by asking for what only publishers get.
3. No remedy weakens a check.

`docs/doctor-and-report.md`, "The checks".
"""

import http.client
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import urlsplit

from signimage.credentials import StoredLogin
from signimage.dockercli import PROGRAM
from signimage.doctor import Check, Status, Verdict, failure, warning
from signimage.errors import (
    CertificateError,
    EngineError,
    NotASignerError,
    NotInitializedError,
    SignImageError,
    UnreachableError,
)
from signimage.expiry import is_with_owner, terms
from signimage.keystore import Entry, KeyStore, Passphrases
from signimage.lookup import invalid_roles, signers
from signimage.metadata import RELEASES, ROOT, TARGETS
from signimage.notary import TrustServer
from signimage.oci import Repository
from signimage.pinning import either
from signimage.programs import ask_program, find_program
from signimage.registry import Registry, base_url
from signimage.signing import check_may_sign
from signimage.transport import Response, Transport
from signimage.trust import TrustedRepository, canonical_ids
from signimage.trustapi import default_trust_server, gets_login
from signimage.trustcache import TrustCache

_ANSWER_MAX = 1024 * 1024  # bytes; somebody else's page, where it is no registry
_DOCKER_S = 20.0  # for saying its version, on a machine that is busy
# Servers of tokens forgive about a minute; a timestamp lives for a fortnight.
_SKEW_WARNING, _SKEW_FAILURE = timedelta(minutes=1), timedelta(hours=1)
_WITHOUT_TRUST = 29  # the first major version of Docker's command without content trust
_VARIABLE, _SWITCH = "DOCKER_CONTENT_TRUST_SERVER", "DOCKER_CONTENT_TRUST"
_KNOWN = (http.client.OK, http.client.UNAUTHORIZED, http.client.FORBIDDEN)


@dataclass(slots=True)
class Checkup:
    """One repository, the ways to its servers, and what this machine has for it.

    Attributes:
        repository: What is examined.
        tags: What should be signed with the keys of this machine.
        registry: With the right to push, where that is asked for.
        transport: The way to the registry.
        login: What Docker has to log in there with.
        trust_url: Where the trust server is looked for.
        server: Makes its client, with these rights; `InputError` for an address that is none.
        store: The keys of this machine.
        passphrases: For them.
        docker_config: Docker's folder.
        environment: Docker's variables.
        clock: This machine's.
    """

    repository: Repository
    tags: tuple[str, ...]
    registry: Registry
    transport: Transport
    login: StoredLogin
    trust_url: str
    server: Callable[[str], TrustServer]
    store: KeyStore
    passphrases: Passphrases
    docker_config: Path
    environment: Mapping[str, str] = field(repr=False)
    clock: Callable[[], datetime] = lambda: datetime.now(timezone.utc)
    _skews: dict[str, timedelta] = field(default_factory=dict)
    _was_known: bool = False
    _believed: TrustedRepository | None = None

    def checks(self, *, is_reader: bool = False) -> tuple[Check, ...]:
        """All checks in their order; without those for publishers where *is_reader*."""
        everything = (
            Check("registry", "Registry", self._registry),
            Check("trust-store", "Trust store", self._trust_store),
            Check("trust-server", "Trust server", self._trust_server, ("trust-store",)),
            Check("login", "Login", self._login),
            Check("pull", "Pulling", self._pull, ("registry", "login")),
            Check("push", "Pushing", self._push, ("registry", "login", "pull")),
            Check("trust-read", "Reading trust data", self._trust_read, ("trust-server", "login")),
            Check("initialised", "Initialisation", self._initialised, ("trust-read",)),
            Check("trust-write", "Publishing trust data", self._trust_write, ("initialised",)),
            Check("trust-data", "Trust data", self._trust_data, ("initialised",)),
            Check("root", "Root key", self._root, ("trust-data",)),
            Check("roles", "Roles", self._roles, ("trust-data",)),
            Check("expiry", "Expiry", self._expiry, ("trust-data",)),
            Check("clock", "Clock", self._clock),
            Check("keys", "Keys", self._keys, ("trust-data",)),
            Check("signing", "Signing", self._signing, ("trust-data", "keys")),
            Check("docker", "Docker", self._docker),
        )
        for_publishers = {"push", "trust-write", "keys", "signing"}
        return tuple(
            each for each in everything if not is_reader or each.name not in for_publishers
        )

    # --- The ways to the servers ---

    def _registry(self) -> Verdict:
        host = self.repository.host
        try:
            url = base_url(self.transport, host)
            answer = self._asked(self.transport, f"{url}/v2/", "registry")
        except CertificateError as error:
            places = f"/etc/docker/certs.d/{host}/ca.crt"
            raise _with_place(error, places) from error
        if answer.status not in _KNOWN:
            return warning(
                f"{url} answers {answer.status} where a registry answers 200 or 401",
                "Check the name of the registry, and proxies on the way",
            )
        plain = " (over http, on this machine)" if url.startswith("http:") else ""
        return Verdict(f"{url} answers{plain}")

    def _trust_store(self) -> Verdict:
        trust = self.docker_config / "trust"
        cache = TrustCache(trust, self.repository.gun)
        obstacle = cache.obstacle()
        if obstacle is None:
            cache.floors()
            return Verdict(f"what is believed can be kept in {trust}")
        if obstacle.is_file() and os.access(obstacle, os.R_OK | os.W_OK):
            return failure(f"{obstacle} stands where a folder belongs", f"Take {obstacle} away")
        return failure(
            f"{obstacle} may not be read and written by this account",
            "Have it given to this account (chown), as root may have made it; where the file "
            "system is read-only, name another folder in DOCKER_CONFIG",
        )

    def _trust_server(self) -> list[Verdict]:
        api = self.server("pull").api
        try:
            self._asked(api.transport, f"{api.url}/v2/", "trust server")
        except CertificateError as error:
            host = api.url.partition("://")[2].partition("/")[0]
            raise _with_place(error, str(self.docker_config / "tls" / host / "ca.crt")) from error
        except UnreachableError as error:
            raise self._with_name(error) from error
        return [Verdict(f"{api.url} answers"), *self._oddities()]

    def _with_name(self, error: UnreachableError) -> UnreachableError:
        """Say how a trust server is named, where none was and the registry's host was asked."""
        host = self.repository.host
        if self.environment.get(_VARIABLE) or self.trust_url != default_trust_server(host):
            return error
        hint = (
            f"No trust server is named, so the registry's host was asked: set {_VARIABLE}, or give"
        )
        return UnreachableError(str(error), hint=f"{hint} --trust-server URL")

    def _oddities(self) -> Iterator[Verdict]:
        named = self.environment.get(_VARIABLE, "")
        if named and named.rstrip("/") != self.trust_url.rstrip("/"):
            yield warning(
                f"{_VARIABLE} names {_shown(named)}, and {_shown(self.trust_url)} was asked for",
                f"Docker's command asks the server of the variable: change or unset {_VARIABLE}",
            )
        if urlsplit(self.trust_url).path.rstrip("/").endswith("/v2"):
            yield warning(
                f"the address of the trust server ends in /v2: {_shown(self.trust_url)}",
                "Give the address without /v2, which is added to it",
            )
        if not gets_login(self.trust_url, self.repository.host):
            yield warning(
                f"{_shown(self.trust_url)} gets no login: {self.repository.host} is its own trust "
                "server",
                f"Unset {_VARIABLE}, and leave --trust-server away",
            )

    def _asked(self, transport: Transport, url: str, what: str) -> Response:
        """Ask who is there, as nobody; any answer is one, and its date is looked at later."""
        answer = transport.request("GET", url, what=what, max_bytes=_ANSWER_MAX, redirects=0)
        try:
            told = parsedate_to_datetime(answer.headers.get("Date", ""))
        except ValueError:
            return answer
        if told.tzinfo is not None:
            self._skews[f"{what} {urlsplit(url).netloc}"] = self.clock() - told
        return answer

    def _clock(self) -> Verdict:
        if not self._skews:
            return Verdict("because no server has told the time", status=Status.UNCHECKED)
        what, skew = max(self._skews.items(), key=lambda item: abs(item[1]))
        seconds = round(abs(skew).total_seconds())
        ahead = "ahead of" if skew > timedelta() else "behind"
        text = f"this machine's clock is {seconds} s {ahead} that of {what}"
        remedy = "Have it set by the network: timedatectl set-ntp true"
        if abs(skew) >= _SKEW_FAILURE:
            return failure(text, remedy)
        if abs(skew) >= _SKEW_WARNING:
            return warning(text, remedy)
        return Verdict("this machine's clock agrees with the servers'")

    # --- Who we are, and what we may do ---

    def _login(self) -> Verdict:
        host = self.repository.host
        if self.login.current() is None:
            return Verdict(f"Docker has no login for {host}; visits are anonymous")
        return Verdict(f"Docker has a login for {host}")

    def _pull(self) -> Verdict:
        tag = self.tags[0] if self.tags else "latest"  # whether it is there is another matter
        if self.registry.find(tag) is None and self.tags:
            return warning(
                f"{self.repository} does not have the tag {tag} yet", "An image is pushed first"
            )
        return Verdict(f"images may be pulled from {self.repository}")

    def _push(self) -> Verdict:
        self.registry.check_push()
        return Verdict(f"images may be pushed to {self.repository}")

    def _trust_read(self) -> Verdict:
        gun = self.repository.gun
        try:
            self.server("pull").api.root()
        except NotInitializedError:
            return Verdict(f"the trust server may be asked about {gun}")
        return Verdict(f"the trust data of {gun} may be read")

    def _initialised(self) -> Verdict:
        self.server("pull").api.root()
        return Verdict(f"{self.repository.gun} has trust data")

    def _trust_write(self) -> Verdict:
        self.server("pull,push").check_write()
        return Verdict(f"trust data of {self.repository.gun} may be published")

    # --- What is believed ---

    def _trust_data(self) -> Verdict:
        server = self.server("pull")
        self._was_known = server.has_root
        server.cache = None  # what was kept counts, and nothing is kept
        self._believed = server.refresh()
        version = self._believed.timestamp.body.version
        return Verdict(f"the trust data is valid; its timestamp has version {version}")

    @property
    def _repository(self) -> TrustedRepository:
        if self._believed is None:
            raise RuntimeError("the trust data is asked for before it was looked at")
        return self._believed

    def _root(self) -> Verdict:
        ids = self._repository.root.body.roles[ROOT].keyids
        if self._repository.pins.is_pinned:
            return Verdict(f"the root is pinned, and it is {either(ids)}")
        if self._was_known:
            return Verdict(f"the root is the one believed here before: {either(ids)}")
        pins = " ".join(f"--root-key {key_id}" for key_id in ids)
        return warning(
            f"nothing is pinned: on a first visit any root is believed, here {either(ids)}",
            f"If its owner confirms the key, give {pins}; in a pipeline, the input rootKeys",
        )

    def _roles(self) -> list[Verdict]:
        repository = self._repository
        found = [_rejected(repository, name) for name in invalid_roles(repository)]
        return found or [Verdict("every role that is published is valid")]

    def _expiry(self) -> list[Verdict]:
        repository = self._repository
        ends = terms(repository, [entry.key_id for entry in self.store.entries()])
        found = [
            warning(
                f"{term.what} ends on {term.ends:%Y-%m-%d}", f"Its owner renews it: {term.remedy}"
            )
            for term in ends
            if term.is_due(repository.now) and not term.has_ended(repository.now)
        ]
        first = next(term for term in ends if term.notice is not None)
        return found or [Verdict(f"{first.what} ends first, on {first.ends:%Y-%m-%d}")]

    # --- Keys ---

    def _keys(self) -> list[Verdict]:
        entries = self.store.entries()
        whole = {entry.key_id for entry in entries if not entry.fault}
        unlocked = [
            self._unlocked(key_id, owner)
            for owner, names in self._owners().items()
            for key_id in sorted(whole.intersection(names))
        ]
        found = [*self._damaged(entries), *self._open(entries)]
        return [*found, *(unlocked or [self._none_at_hand()])]

    def _damaged(self, entries: Sequence[Entry]) -> Iterator[Verdict]:
        for entry in entries:
            if entry.fault:
                yield warning(entry.fault, f"Take {entry.path} away, or bring the key anew")

    def _open(self, entries: Sequence[Entry]) -> Iterator[Verdict]:
        if not hasattr(os, "geteuid"):
            return  # Windows: access lists decide
        for entry in entries:
            mode = stat.S_IMODE(entry.path.stat().st_mode)
            if mode & 0o077:
                text = f"{entry.path.name} may be read by others: its mode is {mode:04o}"
                yield warning(text, f"chmod 600 {entry.path}")

    def _owners(self) -> dict[str, tuple[str, ...]]:
        """Canonical IDs of the keys that may sign tags, by whose they are."""
        repository = self._repository
        if not repository.targets().delegations:
            return {"the repository": canonical_ids(*repository.role_keys(TARGETS))}
        return {signer.name: signer.key_ids for signer in signers(repository)}

    def _unlocked(self, key_id: str, owner: str) -> Verdict:
        try:
            self.store.load(key_id, self.passphrases)
        except SignImageError as error:
            return failure(f"key {key_id} of {owner}: {error}", error.hint)
        return Verdict(f"key {key_id} of {owner} is here, and its passphrase opens it")

    def _none_at_hand(self) -> Verdict:
        gun = self._repository.gun
        known = ", ".join(f"{name} ({either(ids)})" for name, ids in self._owners().items())
        text = (
            f"no key in {self.store.private} may sign in {gun}; its signers are {known or 'none'}"
        )
        remedy = (
            "Bring one here with signimage key import FILE, or have the owner add yours: "
            f"signimage signer add --key FILE.pub NAME {gun}"
        )
        return failure(text, remedy) if self.tags else warning(text, remedy)

    def _signing(self) -> list[Verdict]:
        repository = self._repository
        known = {entry.key_id for entry in self.store.entries() if not entry.fault}
        able = [each for ids in self._owners().values() for each in ids if each in known]
        found = [self._may_sign(repository, tag, able) for tag in self.tags if able]
        if able and not self.tags:
            found = [self._may_release(repository, able)]
        if is_with_owner(repository, known):
            text = "the snapshot key is kept on this machine: nobody else can publish"
            remedy = f"Give that work to the server: signimage rotate snapshot {repository.gun}"
            found.append(warning(text, remedy))
        return found or [Verdict("no key of this machine signs here")]

    def _may_sign(self, repository: TrustedRepository, tag: str, key_ids: Sequence[str]) -> Verdict:
        refusals = []
        for key_id in key_ids:
            try:
                check_may_sign(repository, tag, key_id)
            except SignImageError as error:
                refusals.append(error)
            else:
                return Verdict(f"the tag {tag} may be signed with the key {key_id}")
        return failure(str(refusals[0]), refusals[0].hint or _paths_hint(refusals[0]))

    def _may_release(self, repository: TrustedRepository, key_ids: Sequence[str]) -> Verdict:
        top = repository.targets()
        releasing: tuple[str, ...] = ()
        if not top.delegations:
            releasing = canonical_ids(*repository.role_keys(TARGETS))
        elif any(entry.name == RELEASES for entry in top.children(TARGETS)):
            releasing = canonical_ids(*repository.role_keys(RELEASES))
        if set(releasing).isdisjoint(key_ids):
            return failure(
                f"key {either(key_ids)} may sign, but not in {RELEASES}, where consumers look",
                "The owner of the repository adds it there: signimage signer add --key FILE.pub "
                f"NAME {repository.gun}",
            )
        return Verdict("what the keys of this machine sign is released; name tags with --tag")

    # --- Docker ---

    def _docker(self) -> Verdict:
        program = find_program(PROGRAM, self.environment)
        if not program:
            return Verdict("there is no docker command here, and none is needed to sign or verify")
        try:
            said = ask_program([program, "--version"], _for_docker(self.environment), _DOCKER_S)
        except EngineError as error:
            return warning(str(error), error.hint)
        version = re.search(r"version (\d{1,4})\.[\w.+~-]*", said.output)
        if version is None:
            return warning(f"{program} does not say its version")
        is_on = self.environment.get(_SWITCH, "").lower() in {"1", "t", "true"}
        if int(version[1]) < _WITHOUT_TRUST:
            state = " and is switched on" if is_on else ""
            return Verdict(f"Docker {version[1]} knows content trust{state}")
        if is_on:
            return warning(
                f"{_SWITCH} is set, and Docker {version[1]} has no content trust: docker push "
                "signs nothing, and docker pull verifies nothing",
                f"Sign with signimage sign, verify with signimage verify, and unset {_SWITCH}",
            )
        return Verdict(f"Docker {version[1]} has no content trust; signimage signs without it")


def _rejected(repository: TrustedRepository, name: str) -> Verdict:
    rejection = repository.rejection(name)
    error = rejection.error if rejection else NotASignerError(name)
    renew = f"Its owner signs it again: signimage witness {repository.gun} {name}"
    return failure(str(error).rstrip("."), renew if rejection and rejection.expired else error.hint)


def _paths_hint(error: SignImageError) -> str:
    return "Ask the owner for another path, or sign another tag" if "paths" in str(error) else ""


def _with_place(error: CertificateError, place: str) -> CertificateError:
    """Say where Docker and we look for private authorities, where that is what is wanted."""
    if "caCertificate" not in error.hint:
        return error
    hint = f"If it has a private certificate authority, put that (PEM) into {place}"
    return CertificateError(str(error), hint=f"{hint}, or give it with --ca FILE")


def _for_docker(environment: Mapping[str, str]) -> dict[str, str]:
    names = ("PATH", "HOME", "SYSTEMROOT", "DOCKER_CONFIG")
    return {name: environment[name] for name in names if name in environment}


def _shown(url: str) -> str:
    """A URL as texts may show it: without an account."""
    scheme, mark, rest = url.rpartition("://")
    return scheme + mark + rest.rpartition("@")[2].partition("?")[0][:200]
