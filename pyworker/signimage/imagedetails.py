"""What Azure Pipelines is told of a pushed image, so that its Environments can trace it.

The document is the one that `Docker@2` posts, member by member, except where its own is wrong:
repositories of three and more parts have an address, and a layer that BuildKit made has the
instruction that made it.

Azure DevOps REST API 5.0-preview.1, `deployment/imagedetails`.
"""

import hashlib
import http.client
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from signimage.oci import Digest, Repository
from signimage.transport import Transport, refusal

_API_VERSION = "5.0-preview.1"
_ANSWER_MAX = 64 * 1024  # bytes; the answer repeats a part of what was sent
_DEADLINE_S = 20.0  # nobody waits long for what is only told
_INSTRUCTIONS = frozenset(
    (
        *("ADD", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "LABEL"),
        *("MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
    )
)
_OLD_MARK = "#(nop)"  # how builders before BuildKit call what is not RUN


@dataclass(frozen=True, slots=True)
class Layer:
    """One step in the history of an image."""

    created_by: str
    created: int  # seconds since 1970
    size: int  # bytes

    @property
    def instruction(self) -> tuple[str, str]:
        """The Dockerfile's word for it, and its arguments."""
        text = self.created_by.partition(_OLD_MARK)[2].strip()
        word, _, rest = (text or self.created_by).strip().partition(" ")
        if word in _INSTRUCTIONS:
            return word, rest.removesuffix("# buildkit").strip()
        return "RUN", self.created_by.strip()

    def to_json(self) -> dict[str, str]:
        """As `Docker@2` describes a layer."""
        directive, arguments = self.instruction
        moment = datetime.fromtimestamp(self.created, timezone.utc)
        return {
            "directive": directive,
            "arguments": arguments,
            "createdOn": f"{moment:%Y-%m-%dT%H:%M:%SZ}",
            "size": human_size(self.size),
        }


def history(config: Mapping[str, Any], sizes: Sequence[int]) -> list[Layer]:
    """The steps of an image, newest first, from its configuration.

    Args:
        config: The JSON object that the image's manifest calls its configuration.
        sizes: The layers' lengths in bytes, the lowest first, as the manifest gives them.

    OCI Image Specification 1.1, "Image Configuration".
    """
    left = iter(sizes)
    told = config.get("history")
    steps = [step for step in told if isinstance(step, dict)] if isinstance(told, list) else []
    layers = [
        Layer(
            str(step.get("created_by") or ""),
            _seconds(step.get("created")),
            0 if step.get("empty_layer") else next(left, 0),
        )
        for step in steps
    ]
    return layers[::-1]


def _seconds(moment: object) -> int:
    """Seconds since 1970 of an RFC 3339 *moment*; 0 where there is none."""
    try:
        # Builders write nanoseconds, which Python reads from 3.11 on only.
        text = re.sub(r"\.\d+", "", str(moment)).replace("Z", "+00:00")
        return max(0, int(datetime.fromisoformat(text).timestamp()))
    except (ValueError, OverflowError):
        return 0


@dataclass(frozen=True, slots=True)
class PushedImage:
    """An image as the engine knows it, and where it was pushed."""

    repository: Repository
    digest: Digest
    tags: tuple[str, ...]
    image_id: str  # `sha256:…`
    layers: Sequence[Layer]  # the newest first, as the engine tells
    blobs: Sequence[str]  # digests of the layers' content, the lowest first
    base_image: str = "NA"
    build_options: Mapping[str, str] = field(default_factory=dict)

    @property
    def uri(self) -> str:
        """The image's address, as `RESOURCE_URIS` holds it."""
        return f"https://{self.repository}@{self.digest}"


def image_details(image: PushedImage, variables: Mapping[str, str]) -> dict[str, Any]:
    """The document about *image*.

    Args:
        image: What was pushed.
        variables: Pipeline variables by their names, e.g. `Build.BuildId`, in any case.
    """
    known = {name.lower(): value for name, value in variables.items()}
    get = known.get
    return {
        "imageName": image.uri,
        "imageUri": image.uri,
        "hash": image.digest.hex,
        "baseImageName": image.base_image,
        "distance": len(image.layers),
        "imageType": "",
        "mediaType": "",
        "tags": list(image.tags),
        "layerInfo": [layer.to_json() for layer in reversed(image.layers)],
        **_run(known),
        "pipelineName": get("system.definitionname", ""),
        "pipelineId": get("system.definitionid", ""),
        "jobName": get("system.phasedisplayname", ""),
        "imageSize": f"{sum(layer.size for layer in image.layers)}B",
        "contextUrl": get("build.repository.uri", ""),
        "revisionId": get("build.sourceversion", ""),
        "buildOptions": dict(image.build_options),
        "repositoryTypeName": get("build.repository.provider", ""),
        "repositoryId": get("build.repository.id", ""),
        "repositoryName": get("build.repository.name", ""),
        "branch": get("build.sourcebranchname", ""),
        "imageFingerPrint": _fingerprint(image),
    }


def post_image_details(
    transport: Transport, collection_uri: str, project: str, token: str, details: Mapping[str, Any]
) -> None:
    """Tell the collection of an image.

    Raises:
        RemoteError: It does not listen. The image is pushed and signed all the same.
    """
    collection = quote(collection_uri.strip().rstrip("/"), safe="/:%[]")
    response = transport.request(
        "POST",
        f"{collection}/{quote(project, safe='')}"
        f"/_apis/deployment/imagedetails?api-version={_API_VERSION}",
        what="Azure DevOps",
        max_bytes=_ANSWER_MAX,
        headers={
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
            "X-TFS-FedAuthRedirect": "Suppress",
        },
        body=json.dumps(details).encode(),
        deadline_s=_DEADLINE_S,
    )
    # 203 is a page to sign in with.
    if response.status not in (http.client.OK, http.client.CREATED, http.client.NO_CONTENT):
        raise refusal(response, "Azure DevOps")


def human_size(size: int) -> str:
    """*size* (bytes) in three digits and a decimal unit, as Docker writes it: `5.61MB`."""
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:  # noqa: PLR2004 -- the step between decimal units
        value /= 1000
        del units[0]
    return f"{value:.3g}{units[0]}"


def _run(known: Mapping[str, str]) -> dict[str, Any]:
    """Which run it was: of a build, or of a classic release, whose hosts have a release's ID."""
    get = known.get
    base = f"{get('system.teamfoundationcollectionuri', '')}{get('system.teamproject', '')}"
    definition = get("system.definitionid", "")
    if get("system.hosttype", "build").lower() != "build" and "release.releaseid" in known:
        run, version = known["release.releaseid"], get("release.releasename", "")
        creator = get("release.requestedforemail", "")
        logs, source = f"_releaseProgress?releaseId={run}", f"_release?definitionId={definition}"
    else:
        run, version = get("build.buildid", ""), get("build.buildnumber", "")
        creator = get("build.requestedforemail", "")
        logs, source = f"_build/results?buildId={run}", f"_build?definitionId={definition}"
    return {
        "runId": int(run) if run.isdecimal() else None,
        "pipelineVersion": version,
        "creator": creator,
        "logsUri": f"{base}/{logs}",
        "artifactStorageSourceUri": f"{base}/{source}",
    }


def _fingerprint(image: PushedImage) -> dict[str, Any]:
    blobs = [blob.removeprefix("sha256:") for blob in image.blobs]
    return {
        "v1Name": image.image_id.removeprefix("sha256:"),
        "v2Blobs": blobs,
        "v2Name": hashlib.sha256(" ".join(blobs).encode()).hexdigest(),
    }
