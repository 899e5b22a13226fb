"""The tags of a repository, several at once: moved, looked at, put back.

The rules of this file:

1. All tags are tried whatever fails, and each one's fate is told.
2. An answer may be lost, so what failed is looked at before it is called unmoved.
3. A tag that somebody else moved meanwhile is theirs.

OCI Distribution Specification 1.1, "Pushing manifests", "Deleting tags".
"""

from collections.abc import Iterable, Mapping
from functools import partial

from signimage.errors import SignImageError, UnavailableError, UnreachableError
from signimage.oci import Digest, Manifest, Repository
from signimage.parallel import outcomes
from signimage.registry import PARALLEL, Registry


def move_tags(registry: Registry, manifests: Mapping[str, Manifest]) -> None:
    """Let each tag name its manifest, several at once; all are tried whatever fails.

    Those that failed are looked up at the end: an answer may be lost. Where that shows that a
    registry is back, which was away, what it missed is sent once more.

    Raises:
        SignImageError: The first of what failed, whose state says which tags were moved,
            which were not, and of which neither is known.
    """
    failed = _failed_moves(registry, manifests)
    missed = {
        tag: manifests[tag]
        for tag, (error, is_unmoved) in failed.items()
        if is_unmoved and isinstance(error, (UnavailableError, UnreachableError))
    }
    again = _failed_moves(registry, missed)
    left = {tag: again.get(tag, failed[tag]) for tag in failed if tag not in missed or tag in again}
    for error, _ in left.values():
        if isinstance(error, SignImageError):
            error.state = _state(registry.repository, manifests, left)
        raise error


def _failed_moves(
    registry: Registry, manifests: Mapping[str, Manifest]
) -> dict[str, tuple[Exception, bool]]:
    """Move tags; gives why some were not, and whether that was seen or may be otherwise."""
    put = outcomes(
        {tag: partial(registry.put_manifest, tag, each) for tag, each in manifests.items()},
        at_once=PARALLEL,
    )
    failed = {tag: each for tag, each in put.items() if isinstance(each, Exception)}
    found = _look_up(registry, failed)
    return {
        tag: (failed[tag], not isinstance(each, Exception))
        for tag, each in found.items()
        if isinstance(each, Exception) or _digest(each) != manifests[tag].descriptor.digest
    }


def strayed(registry: Registry, manifests: Mapping[str, Manifest]) -> dict[str, Manifest]:
    """Return those of *manifests* whose tags are seen to name something else, or nothing.

    A look that fails shows nothing: distribution up to 2.8 answers 500 to whoever reads a
    manifest in the moment in which it is stored again.
    """
    found = _look_up(registry, manifests)
    return {
        tag: manifests[tag]
        for tag, each in found.items()
        if not isinstance(each, Exception) and _digest(each) != manifests[tag].descriptor.digest
    }


def restore(
    registry: Registry, before: Mapping[str, Manifest | None], now: Mapping[str, Digest]
) -> tuple[str, ...]:
    """Let tags name again what they named *before*, where they still name what we put there.

    1. A tag that names something else by now is somebody else's, and is left alone. The
       specification has no way to compare and write in one request.
    2. A tag that was not there is removed, if the registry can do that.

    Args:
        registry: Where the repository is.
        before: What each tag named; None for a tag that was not there.
        now: What we let the tags name.

    Returns:
        The tags that still name what we put there, or may do so.
    """
    changed = {tag: ours for tag, ours in now.items() if _digest(before.get(tag)) != ours}
    # All are looked at before any is written: distribution up to 2.8 answers 500 to whoever
    # reads a manifest in the moment in which it is stored again.
    found = _look_up(registry, changed)
    looked = {tag: each for tag, each in found.items() if not isinstance(each, Exception)}
    ours = [tag for tag, each in looked.items() if _digest(each) == changed[tag]]
    done = outcomes(
        {tag: partial(_put_back, registry, tag, before.get(tag)) for tag in ours}, at_once=PARALLEL
    )
    for outcome in (*found.values(), *done.values()):
        if isinstance(outcome, Exception) and not isinstance(outcome, SignImageError):
            raise outcome
    return tuple(tag for tag in changed if tag not in looked or done.get(tag, True) is not True)


def _look_up(registry: Registry, tags: Iterable[str]) -> dict[str, Manifest | Exception | None]:
    return outcomes({tag: partial(registry.find, tag) for tag in tags}, at_once=PARALLEL)


def _put_back(registry: Registry, tag: str, before: Manifest | None) -> bool:
    if before is None:
        return registry.remove_tag(tag)
    registry.put_manifest(tag, before)
    return True


def _state(
    repository: Repository, tags: Iterable[str], left: Mapping[str, tuple[Exception, bool]]
) -> str:
    parts: dict[str, list[str]] = {"moved": [], "not moved": [], "moved or not": []}
    for tag in tags:
        is_unmoved = left[tag][1] if tag in left else None
        parts[{None: "moved", True: "not moved", False: "moved or not"}[is_unmoved]].append(tag)
    said = "; ".join(f"{words}: {', '.join(tags)}" for words, tags in parts.items() if tags)
    return f"Tags of {repository} {said}"


def _digest(manifest: Manifest | None) -> Digest | None:
    return manifest.descriptor.digest if manifest else None
