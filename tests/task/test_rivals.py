"""Jobs that push and sign at once: of one tag the last signer has the last word, for all to see."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from peers.shop import opened_shop
from peers.stack import Stack
from peers.workstation import Workstation
from signimage.errors import HashMismatchError
from signimage.oci import Digest, Manifest
from signimage.registry import Registry
from signimage.signing import push_and_sign
from task.casualties import Ending, Run
from task.pipeline import SIGNER, Job, Owner, SigningKey
from unit.stored_images import docker_archive, layer_of, tar_of


def run_all(job: Job, key: SigningKey, tags: Sequence[str]) -> list[Ending]:
    """Run a job for each of *tags* at once, each on an agent of its own, with a new image."""
    runs = []
    for number, tag in enumerate(tags):
        agent = replace(job.agent, folder=job.agent.folder.with_name(f"agent {number}"))
        archive = docker_archive([layer_of(f"{job.path} {number}")])
        (agent.sources / "image.tar").write_bytes(tar_of(archive))
        own = replace(job, agent=agent)
        step = own.step(key, command="push", imageArchive="image.tar", tags=tag)
        runs.append(Run(own, step))
    return [run.end() for run in runs]


@pytest.mark.parametrize("number", [2, 8])
def test_of_jobs_that_push_one_tag_at_once_the_last_signer_is_green_and_all_agree(
    signable: Job, owner: Owner, key: SigningKey, number: int
) -> None:
    """Whoever is green signed what was current when it looked; the others say who was faster."""
    endings = run_all(signable, key, ["1.0"] * number)
    pushed = signable.pushed()
    assert owner.inspected(signable.gun) == {"1.0": (pushed["1.0"], [SIGNER])}
    assert pushed["1.0"] in [each.digest for each in endings if each.result == "Succeeded"]
    for each in endings:
        assert each.result == "Succeeded" or "Somebody else signed it a moment later" in each.said


def test_of_jobs_with_tags_of_their_own_that_push_at_once_none_loses_anything(
    signable: Job, owner: Owner, key: SigningKey
) -> None:
    """As the jobs of a matrix do."""
    tags = [f"part-{number}" for number in range(8)]
    endings = run_all(signable, key, tags)
    assert [each.result for each in endings] == ["Succeeded"] * len(tags)
    digests = dict(zip(tags, (each.digest for each in endings), strict=True))
    assert signable.pushed() == digests
    assert owner.inspected(signable.gun) == {
        tag: (digest, [SIGNER]) for tag, digest in digests.items()
    }


class Interrupted(Registry):
    """A registry at which something happens once, when a digest is next looked up."""

    happens: Callable[[], object] | None = None

    def resolve(self, reference: str | Digest) -> Manifest:
        """Do it, and then let happen what was to happen."""
        found = super().resolve(reference)
        if isinstance(reference, Digest) and self.happens:
            happens, self.happens = self.happens, None
            happens()
        return found


def test_of_three_the_registry_has_what_was_signed_last_whoever_moved_the_tag_last(
    stack: Stack, tmp_path: Path, repository_name: str
) -> None:
    """The second signs before the first looks, the third while the first follows the second."""
    workstation = Workstation(stack, tmp_path, f"{stack.open_registry}/{repository_name}")
    with opened_shop(workstation, stack, tmp_path) as shop:
        images = [shop.archived("1.0") for _ in range(3)]
        registry = Interrupted(shop.transport, shop.repository, None)

        def others_sign() -> None:
            shop.signs(shop.order("1.0"), images[1])
            registry.happens = lambda: shop.signs(shop.order("1.0"), images[2])

        shop.events["Tag"] = others_sign
        server = workstation.server(cache=False)
        with pytest.raises(HashMismatchError, match=r":1\.0: expected .* to be signed, got"):
            push_and_sign(shop.order("1.0"), images[0], registry, server, shop)
        assert registry.happens is None
        assert shop.tags() == {"1.0": shop.signed("1.0").text}
