"""The demo's judges: they must see what is signed, and must not see what is not.

Rule: here Docker's own CLI signs, so that what is tested is the judging and not our signing.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from peers.stack import Stack, make_context
from task.demo import Demo, Disagreement

_PASSPHRASES = {
    "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE": "root passphrase",
    "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE": "repository passphrase",
}


@pytest.fixture
def demo(stack: Stack, repository_name: str, tmp_path: Path) -> Demo:
    """Return a demo whose repository Docker's CLI has initialised for the signer `ci`."""
    demo = Demo(tmp_path, stack, repository_name)
    keys = str(tmp_path)
    _docker(demo, "trust", "key", "generate", "--dir", keys, "ci")
    _docker(demo, "trust", "signer", "add", "--key", f"{keys}/ci.pub", "ci", demo.image)
    return demo


def _docker(demo: Demo, *arguments: str) -> str:
    return demo.stack.docker(*arguments, config=demo.owner, env=_PASSPHRASES).stdout


def _signed(demo: Demo, *tags: str) -> Mapping[str, str]:
    """Build one image, push and sign it under each tag, and return tag -> digest."""
    signed = {}
    context = str(make_context(demo.folder / "context", text=demo.name))
    for tag in tags:
        image = f"{demo.image}:{tag}"
        _docker(demo, "build", "--quiet", "--tag", image, context)
        _docker(demo, "push", image)
        said = _docker(demo, "trust", "sign", image)
        (signed[tag],) = set(re.findall(r"digest: (sha256:[0-9a-f]{64})", said))
    return signed


def test_judges_agree_with_the_truth(demo: Demo) -> None:
    signed = _signed(demo, "1.0", "latest")
    demo.ask_docker(signed)
    demo.ask_notary(signed)
    demo.pull(signed)


def test_a_tag_that_is_claimed_and_not_signed_is_a_disagreement(demo: Demo) -> None:
    claimed = {**_signed(demo, "1.0"), "latest": "sha256:" + 64 * "0"}
    with pytest.raises(Disagreement, match=r"docker's tags and digests: expected .*latest"):
        demo.ask_docker(claimed)
    with pytest.raises(Disagreement, match="notary's tags and digests in targets/releases: exp"):
        demo.ask_notary(claimed)


def test_another_digest_is_a_disagreement(demo: Demo) -> None:
    claimed = dict.fromkeys(_signed(demo, "1.0"), "sha256:" + 64 * "0")
    with pytest.raises(Disagreement, match=r"docker's tags and digests: expected .*0000"):
        demo.ask_docker(claimed)
    with pytest.raises(Disagreement, match=r"the digest of the signed pull of 1\.0: expected"):
        demo.pull(claimed)
