"""`signimage.summary`: the page on the run, which nobody masks."""

from dataclasses import replace
from datetime import datetime, timezone

from signimage.oci import Digest, Repository
from signimage.summary import Facts, summary
from signimage.verification import SignedTags

DIGEST = Digest.of(b"manifest")
FOUND = SignedTags(
    Repository.parse("reg.example.com/team/app"),
    {"1.0": DIGEST, "latest": DIGEST},
    ("ci", "qa"),
    {"1.0": "ci, qa", "latest": "ci, qa"},
    ("a" * 64,),
    datetime(2029, 11, 21, tzinfo=timezone.utc),
    (),
)
SIGNED = Facts(
    "Signed", "b" * 64, "https://notary.example.com", is_pinned=True, hides_registry=False
)


def test_the_page_says_what_was_signed_by_whom_and_until_when() -> None:
    page = summary(FOUND, SIGNED)
    assert page.startswith("## Signed: team/app\n")
    assert f"| `latest` | `{DIGEST}` |" in page
    assert "| Signed by | `ci`, `qa` |" in page
    assert f"| Signing key | `{'b' * 64}` |" in page
    assert f"| Root key | `{'a' * 64}` (pinned) |" in page
    assert "| To be renewed before | 2029-11-21 |" in page


def test_the_page_names_nobody_where_each_tag_has_another_signer() -> None:
    by_tag = {"1.0": "ci", "latest": "qa"}
    page = summary(replace(FOUND, signers=(), signed_by=by_tag), SIGNED)
    assert "| Signed by | different signers |" in page


def test_the_page_says_how_to_check_it_by_hand() -> None:
    page = summary(FOUND, SIGNED)
    assert "export DOCKER_CONTENT_TRUST_SERVER=https://notary.example.com\n" in page
    assert (
        f"signimage verify reg.example.com/team/app:1.0@{DIGEST} --signer ci --signer qa "
        f"--root-key {'a' * 64}\n"
    ) in page
    assert "docker trust inspect --pretty reg.example.com/team/app\n" in page


def test_a_registry_that_the_agent_masks_is_not_on_the_page() -> None:
    """Its address is a secret to the agent when it comes from a service connection."""
    own = "https://reg.example.com"
    page = summary(FOUND, Facts("Verified", "", own, is_pinned=False, hides_registry=True))
    assert "reg.example.com" not in page
    assert "signimage verify REGISTRY/team/app:1.0@" in page
    assert "Signing key" not in page
    assert "believed at first sight; pin it with `rootKeys`" in page
