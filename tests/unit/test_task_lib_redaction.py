"""A known secret is not shown in any of the forms that programs give it."""

import base64
import json
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_pipelines_task_lib.redaction import SHORTEST_SECRET, Redactor, secret_parts

PASSPHRASE = "pä%;]\"'\\ ß&<s>+/?=1"
SECRETS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=6).filter(
    lambda text: text.strip() == text
)


def redactor_of(*secrets: str) -> Redactor:
    redactor = Redactor()
    for secret in secrets:
        redactor.add(secret)
    return redactor


@pytest.mark.parametrize(
    "form",
    [
        PASSPHRASE,
        urllib.parse.quote(PASSPHRASE),
        urllib.parse.quote(PASSPHRASE, safe=""),
        urllib.parse.quote_plus(PASSPHRASE),
        urllib.parse.quote(PASSPHRASE, safe="").lower(),
        urllib.parse.quote(PASSPHRASE, safe="!'()*"),
        json.dumps(PASSPHRASE),
        json.dumps(PASSPHRASE, ensure_ascii=False),
        repr(PASSPHRASE),
        base64.b64encode(PASSPHRASE.encode()).decode(),
        base64.urlsafe_b64encode(PASSPHRASE.encode()).decode(),
    ],
)
def test_every_form_is_replaced_whole(form: str) -> None:
    shown = redactor_of(PASSPHRASE).redact(f"before {form} after")
    quotes = form[0] if form[0] == form[-1] and form[0] in "\"'" else ""
    assert shown == f"before {quotes}***{quotes} after"


@given(SECRETS, st.text(max_size=5), st.text(max_size=5))
def test_a_secret_within_base64_is_found_at_every_alignment(
    secret: str, before: str, after: str
) -> None:
    content = f"{before}:{secret}:{after}".encode("utf-8", "replace")
    shown = redactor_of(secret).redact(base64.b64encode(content).decode())
    assert "***" in shown


@given(SECRETS, st.text(), st.text())
def test_a_secret_is_never_left_in_a_line(secret: str, before: str, after: str) -> None:
    shown = redactor_of(secret).redact(before + secret + after)
    assert secret not in shown.replace("***", "\0")


@given(st.lists(SECRETS, min_size=1, max_size=3), st.text(), st.integers(0, 40))
def test_a_cut_never_parts_a_secret(secrets: list[str], filling: str, size: int) -> None:
    redactor = redactor_of(*secrets)
    line = filling + secrets[0].join("xy") + filling + "".join(secrets)
    end = redactor.end_of_piece(line, size)
    whole = redactor.redact(line)
    assert redactor.redact(line[:end]) + redactor.redact(line[end:]) == whole


def test_a_secret_with_controls_is_masked_as_a_log_shows_it() -> None:
    assert redactor_of("pass\x07word").redact("password") == "***"


def test_the_longer_of_two_secrets_is_replaced_first() -> None:
    assert redactor_of("pass", "password").redact("password") == "***"


def test_each_line_of_a_secret_is_a_secret() -> None:
    redactor = redactor_of("-----BEGIN\r\nMIIBxyz=\u2028  indented\n}\n")
    shown = [redactor.redact(line) for line in ("-----BEGIN", "MIIBxyz=", "indented", "}")]
    assert shown == ["***", "***", "***", "}"]


@pytest.mark.parametrize("short", ["", "a", "abc", "   ", "a\nb\nc"])
def test_secrets_too_short_to_protect_anything_do_not_blank_the_log(short: str) -> None:
    assert redactor_of(short).redact("abcabc a   b") == "abcabc a   b"


def test_a_secret_of_the_shortest_length_is_masked() -> None:
    secret = "x" * SHORTEST_SECRET
    assert redactor_of(secret).redact(f"a {secret} b") == "a *** b"


def test_an_unexpanded_macro_is_no_secret() -> None:
    assert redactor_of("$(Pass.Phrase)").redact("still $(Pass.Phrase)") == "still $(Pass.Phrase)"


def test_an_environment_value_that_is_not_utf8_is_masked_as_others_print_it() -> None:
    value = b"caf\xe9-secret".decode("utf-8", "surrogateescape")
    assert redactor_of(value).redact("caf\ufffd-secret, caf%E9-secret") == "***, ***"


@given(st.text(st.characters()))
def test_any_text_can_be_a_secret(secret: str) -> None:
    redactor = redactor_of(secret)
    for part in secret_parts(secret):
        assert part not in redactor.redact(part).replace("***", "\0")
