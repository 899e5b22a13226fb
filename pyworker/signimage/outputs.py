"""What a step that did its work leaves to those that follow, and to people.

The rules of this file:

1. Output variables are set first, then what may fail without making the work undone: the page on
   the run, and what Environments are told. A failure there is a warning.
2. The result comes last, and there is one.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from azure_pipelines_task_lib import Result, Task
from signimage.buildarguments import goes_elsewhere, split_arguments
from signimage.errors import SignImageError
from signimage.imagedetails import image_details, post_image_details
from signimage.inputs import Command, Inputs
from signimage.summary import Facts, summary
from signimage.transport import Transport
from signimage.verification import SignedTags

if TYPE_CHECKING:
    from signimage.registry import Registry
    from signimage.sources import ArchivedImage, EngineImages

_DONE = {Command.VERIFY: "Verified"}  # all others: signed


def report(task: Task, inputs: Inputs, found: SignedTags, key_id: str) -> None:
    """Set the outputs of a step that signed or verified, and its result."""
    done = _DONE.get(inputs.command, "Signed")
    _set_outputs(task, found)
    for warning in found.warnings:
        task.warning(warning)
    if not inputs.root_keys:
        task.warning(
            f"The root of trust of {found.repository} was believed at first sight. To pin it, "
            f"set the input rootKeys to {', '.join(found.root_key_ids)}"
        )
    for tag, reference in zip(found.tags, found.references, strict=True):
        task.write(f"Signed by {found.signed_by[tag]}: {reference}")
    is_pinned = bool(inputs.root_keys)
    facts = Facts(done, key_id, inputs.trust_server, is_pinned, inputs.login is not None)
    _add_page(task, found, summary(found, facts))
    task.set_progress(100, done)
    text = f"signed by {found.who} and verified" if key_id else f"verified, signed by {found.who}"
    task.set_result(Result.SUCCEEDED, f"{found.repository}: {', '.join(found.tags)} {text}")


def report_build(task: Task, inputs: Inputs, image_id: str) -> None:
    """Set the result of a step that only built."""
    task.set_progress(100, "Built")
    names = ", ".join(f"{inputs.repository}:{tag}" for tag in inputs.tags)
    task.write(f"{names} is image {image_id}")
    is_elsewhere = goes_elsewhere(split_arguments(inputs.arguments)[0])
    left = "not signed" if is_elsewhere else "neither pushed nor signed"
    task.set_result(Result.SUCCEEDED, f"{names} built, {left}")


def tell_environments(
    task: Task,
    transport: Transport,
    inputs: Inputs,
    source: "EngineImages | ArchivedImage",
    registry: "Registry",
    found: SignedTags,
) -> None:
    """Post what Environments show of pushed images; a refusal is a warning."""
    job = inputs.job
    if not job.collection_uri or not job.token:
        return
    project = task.get_variable("System.TeamProject") or job.project_id
    variables = public_variables(task)
    try:
        for digest in found.images:
            tags = tuple(tag for tag in found.tags if found.digests[tag] == digest)
            details = image_details(source.described(registry, digest, tags), variables)
            post_image_details(transport, job.collection_uri, project, job.token, details)
    except SignImageError as error:
        task.warning(f"Environments were not told of the image: {error}")


def public_variables(task: Task) -> Mapping[str, str]:
    """The pipeline's variables that are no secrets, by name."""
    return {each.name: each.value for each in task.get_variables() if not each.is_secret}


def _set_outputs(task: Task, found: SignedTags) -> None:
    before = [uri for uri in task.get_variable("RESOURCE_URIS").split(",") if uri]
    resources = [f"https://{found.repository}@{digest}" for digest in found.images]
    outputs = {
        "digest": ",".join(digest.text for digest in found.images),
        "imageReferences": "\n".join(found.references),
        "signers": ",".join(found.signers),
        "signedTags": ",".join(found.tags),
    }
    for name, value in outputs.items():
        task.set_variable(name, value, is_output=True)
    task.set_variable("RESOURCE_URIS", ",".join(dict.fromkeys([*before, *resources])))


def _add_page(task: Task, found: SignedTags, page: str) -> None:
    """Hand the page to the agent, which reads the file later and empties the folder after the job.

    The file's name is what people see above the page.
    """
    temp = task.get_variable("Agent.TempDirectory")
    if not temp:
        return
    name = f"{found.repository.path.replace('/', ' ')} {found.tags[0]}.md"
    try:
        path = Path(tempfile.mkdtemp(prefix="summary-", dir=temp), name)
        path.write_text(page, "utf-8")
        task.upload_summary(str(path))
    except OSError as error:
        task.warning(f"The page for the run was not written: {error.strerror}")
