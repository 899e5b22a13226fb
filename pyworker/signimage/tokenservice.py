"""Services that hand out tokens: one question, asked again within bounds, answered or refused.

The rules of this file:

1. A question has one deadline over all its tries. Asking twice for a token does no harm, so it is
   asked again after a lost connection, and after the statuses that the question names.
2. Nothing here follows a redirect: what is asked carries a token.
3. A token is reported as a secret before anybody else gets to see it.
4. No text made here holds a token, not even one that a server quotes.

RFC 7519 (JSON Web Tokens, read without being verified: they are meant for others);
RFC 6749, section 5 (answers of token services).
"""

import base64
import binascii
import http.client
import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from signimage.errors import (
    STRANGER_HINT,
    CertificateError,
    FormatError,
    NotFoundError,
    RemoteError,
    UnauthorizedError,
    UnavailableError,
    UnreachableError,
)
from signimage.response import Response, origin, readable, said_by_server
from signimage.transport import Transport, retry_after_s

ANSWER_MAX = 64 * 1024  # bytes; tokens with many groups reach some 10 KiB
HOP_S = 30.0  # one question with all its tries; these services answer within a second or two
TRIES = 4
PAUSE_S = 0.5  # before the second try, doubled for each further one
BUSY = frozenset({429, 500, 502, 503, 504})
LATER_HINT = "Run the job again later"

_TOKEN = re.compile(r"[\x21-\x7e]+")
_QUOTED_TOKEN = re.compile(r"eyJ[\w-]{8,}(?:\.[\w-]*)*")
_REFUSALS = frozenset({400, 401, 403})


@dataclass(frozen=True, slots=True)
class Question:
    """One request for a token.

    `what` is the other side's role in texts; after the statuses in `again` it is asked anew.
    """

    what: str
    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(default=None, repr=False)
    again: frozenset[int] = BUSY
    deadline_s: float = HOP_S

    @classmethod
    def form(cls, what: str, url: str, fields: Mapping[str, str]) -> "Question":
        """Return a question that posts *fields* as a form."""
        headers = {
            "Accept": "application/json",
            "Content-Type": "application/x-www-form-urlencoded",
        }
        return cls(what, "POST", url, headers, urlencode(fields).encode("ascii"))


class TokenServices:
    """Asks token services; `secret` is told of every token."""

    def __init__(
        self, transport: Transport, secret: Callable[[str], object], *, pause_s: float = PAUSE_S
    ) -> None:
        self._transport = transport
        self._secret = secret
        self._pause_s = pause_s

    def ask(self, question: Question) -> Response:
        """Return the answer, whatever its status.

        Raises:
            UnreachableError: No complete answer arrived.
            TooLargeError: The answer is far larger than any token.
            InputError: The address is not usable.
        """
        end = time.monotonic() + question.deadline_s
        for attempt in range(1, TRIES + 1):
            pause_s = self._pause_s * 2 ** (attempt - 1) * random.SystemRandom().uniform(0.5, 1)
            try:
                response = self._once(question, end - time.monotonic())
            except UnreachableError as error:
                # The transport has repeated already what it may; a POST may be lost on its way.
                if attempt > 1 or question.method != "POST" or isinstance(error, CertificateError):
                    raise
                if time.monotonic() + pause_s >= end:
                    raise
            else:
                if attempt == TRIES or response.status not in question.again:
                    return response
                pause_s = max(pause_s, retry_after_s(response))
                if time.monotonic() + pause_s >= end:
                    return response
            time.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    def token(self, response: Response, name: str, what: str) -> str:
        """Return the member *name* of a good answer, a token, after reporting it as a secret.

        Raises:
            FormatError: The answer is no JSON, or has no token.
        """
        document = response.json(what)
        token = document.get(name) if isinstance(document, dict) else None
        if not isinstance(token, str) or not _TOKEN.fullmatch(token):
            raise FormatError(
                f"{what} of {origin(response.url)}: expected a token as {name}, got none",
                hint=STRANGER_HINT,
            )
        self._secret(token)
        return token

    def _once(self, question: Question, left_s: float) -> Response:
        return self._transport.request(
            question.method,
            question.url,
            what=question.what,
            max_bytes=ANSWER_MAX,
            headers=question.headers,
            body=question.body,
            deadline_s=max(0.1, round(left_s, 1)),
            redirects=0,
        )


def refused(response: Response, what: str, deed: str, *, said: str = "", hint: str) -> RemoteError:
    """Return the error for an answer that is no token; the caller raises it.

    Args:
        response: The answer.
        what: The other side's role, e.g. "registry".
        deed: What it did, e.g. "does not accept the service connection".
        said: The server's own words, where they are better than those of its error document.
        hint: What to do about a refusal; trouble that passes has a hint of its own.
    """
    said = without_tokens(said or said_by_server(response))
    status = response.status
    server = f"{what} {origin(response.url)}"
    answer = f"{status}: {said}" if said else f"{status}"
    if status in BUSY or status > http.client.INTERNAL_SERVER_ERROR:
        return UnavailableError(f"{server} is not available: it answered {answer}", hint=LATER_HINT)
    if status < http.client.BAD_REQUEST:
        kind = readable(response.headers.get("Content-Type", "")) or "no type"
        return RemoteError(
            f"{server} {deed}: expected 200 with JSON, got {answer} with {kind}, probably a "
            "sign-in page",
            hint=hint,
        )
    kinds = {http.client.NOT_FOUND: NotFoundError, http.client.GONE: NotFoundError}
    error = UnauthorizedError if status in _REFUSALS else kinds.get(response.status, RemoteError)
    return error(f"{server} {deed} (it answered {answer})", hint=hint)


def without_tokens(text: str) -> str:
    """Return *text* with everything replaced that looks like a JSON Web Token."""
    return _QUOTED_TOKEN.sub("***", text)


def claims(token: str) -> Mapping[str, Any]:
    """Return what a JSON Web Token claims, unverified; empty for anything else."""
    parts = token.split(".")
    if len(parts) not in (3, 5):  # RFC 7519, section 3: signed, or encrypted and unreadable
        return {}
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        document = json.loads(base64.urlsafe_b64decode(padded))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def lifetime_s(token: str, longest_s: float) -> float:
    """Return for how many seconds from its issue a token is valid.

    That is the difference of two times of the issuer's own: this machine's clock may be wrong.
    *longest_s* where the token does not say, or says more.
    """
    known = claims(token)
    begin, end = known.get("iat", known.get("nbf")), known.get("exp")
    # Times may have fractions (RFC 7519, section 2); a bool is none, and not any number is finite.
    if type(begin) not in (int, float) or type(end) not in (int, float) or not end > begin:
        return longest_s
    return float(min(end - begin, longest_s))
