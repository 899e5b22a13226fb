"""The page that a step adds to its run: what was signed, by whom, and how to check it.

The rules of this file:

1. The agent masks nothing in a page. So it holds nothing that the agent would mask in the log:
   no secret, and of a registry whose address came out of a service connection not even that.
2. Every word that comes from outside has a grammar without markup (names, tags, digests, key IDs,
   the trust server's address).
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from signimage.verification import SignedTags

_PLACEHOLDER = "REGISTRY"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the page says beside the tags themselves.

    Attributes:
        title: What was done: `Signed` or `Verified`.
        key_id: Canonical ID of the signing key; empty where nothing was signed by this step.
        trust_server: Its address.
        is_pinned: Whether the root of trust was pinned, and not believed at first sight.
        hides_registry: Whether the registry's address is nothing to show.
    """

    title: str
    key_id: str
    trust_server: str
    is_pinned: bool
    hides_registry: bool


def summary(found: SignedTags, facts: Facts) -> str:
    """The page, in Markdown."""
    path = found.repository.path
    name = f"{_PLACEHOLDER}/{path}" if facts.hides_registry else found.repository.gun
    lines = [
        f"## {facts.title}: {path}",
        "",
        "| tag | digest |",
        "|---|---|",
        *(f"| `{tag}` | `{digest}` |" for tag, digest in found.digests.items()),
        "",
        "| | |",
        "|---|---|",
        *_rows(found, facts),
        "",
        "### Check it by hand",
        "",
        "```sh",
        *_commands(found, facts, name),
        "```",
        "",
    ]
    if facts.hides_registry:
        lines += [f"`{_PLACEHOLDER}` is the registry of the service connection.", ""]
    return "\n".join(lines)


def _rows(found: SignedTags, facts: Facts) -> list[str]:
    roots = ", ".join(f"`{key_id}`" for key_id in found.root_key_ids)
    how = "pinned" if facts.is_pinned else "believed at first sight; pin it with `rootKeys`"
    signers = ", ".join(f"`{name}`" for name in found.signers) or found.who
    rows = [f"| Signed by | {signers} |"]
    if facts.key_id:
        rows.append(f"| Signing key | `{facts.key_id}` |")
    return [
        *rows,
        f"| Root key | {roots} ({how}) |",
        f"| To be renewed before | {found.expires:%Y-%m-%d} |",
    ]


def _commands(found: SignedTags, facts: Facts, name: str) -> list[str]:
    server = facts.trust_server
    is_registry = urlsplit(server).netloc == found.repository.host
    if facts.hides_registry and is_registry:
        server = f"https://{_PLACEHOLDER}"
    signers = "".join(f" --signer {signer}" for signer in found.signers)
    roots = "".join(f" --root-key {key_id}" for key_id in found.root_key_ids)
    return [
        f"export DOCKER_CONTENT_TRUST_SERVER={server}",
        *(
            f"signimage verify {name}:{tag}@{digest}{signers}{roots}"
            for tag, digest in found.digests.items()
        ),
        f"docker trust inspect --pretty {name}",
    ]
