"""`signimage.imagedetails`: what Environments are told of an image."""

import json

import pytest

from signimage.errors import RemoteError, UnauthorizedError
from signimage.imagedetails import (
    Layer,
    PushedImage,
    history,
    human_size,
    image_details,
    post_image_details,
)
from signimage.oci import Digest, Repository
from signimage.transport import Transport
from unit.small_server import Reply, SmallServer

IMAGE = PushedImage(
    Repository.parse("reg.example.com/team/app/api"),
    Digest.of(b"manifest"),
    ("1.0", "latest"),
    "sha256:" + "ab" * 32,
    [
        Layer('/bin/sh -c #(nop)  CMD ["/app"]', 1_800_000_060, 0),
        Layer("COPY app /app # buildkit", 1_800_000_050, 1_234_567),
        Layer("/bin/sh -c apk add curl", 1_800_000_000, 999),
    ],
    ["sha256:" + "01" * 32, "sha256:" + "02" * 32],
)
VARIABLES = {
    "System.HostType": "build",
    "System.TeamFoundationCollectionUri": "https://dev.azure.com/org/",
    "System.TeamProject": "shop",
    "System.DefinitionId": "7",
    "Build.BuildId": "42",
    "Build.BuildNumber": "20261122.1",
    "Build.RequestedForEmail": "ada@example.com",
}


def test_the_document_names_image_run_and_layers() -> None:
    details = image_details(IMAGE, VARIABLES)
    assert details["imageUri"] == f"https://reg.example.com/team/app/api@{IMAGE.digest}"
    assert details["hash"] == IMAGE.digest.hex
    assert details["runId"] == 42
    assert details["pipelineVersion"] == "20261122.1"
    assert details["logsUri"] == "https://dev.azure.com/org/shop/_build/results?buildId=42"
    assert details["artifactStorageSourceUri"].endswith("/org/shop/_build?definitionId=7")
    assert details["creator"] == "ada@example.com"
    assert details["distance"] == 3
    assert details["imageSize"] == "1235566B"
    assert details["layerInfo"] == [
        {"directive": "RUN", "arguments": "/bin/sh -c apk add curl",
         "createdOn": "2027-01-15T08:00:00Z", "size": "999B"},
        {"directive": "COPY", "arguments": "app /app",
         "createdOn": "2027-01-15T08:00:50Z", "size": "1.23MB"},
        {"directive": "CMD", "arguments": '["/app"]',
         "createdOn": "2027-01-15T08:01:00Z", "size": "0B"},
    ]  # fmt: skip
    assert details["imageFingerPrint"]["v1Name"] == "ab" * 32
    assert details["imageFingerPrint"]["v2Blobs"] == ["01" * 32, "02" * 32]


def test_a_release_is_named_by_its_own_numbers() -> None:
    release = {
        **VARIABLES,
        "System.HostType": "release",
        "Release.ReleaseId": "9",
        "Release.ReleaseName": "Release-9",
    }
    details = image_details(IMAGE, release)
    assert details["runId"] == 9
    assert details["pipelineVersion"] == "Release-9"
    assert details["logsUri"].endswith("/shop/_releaseProgress?releaseId=9")


def test_a_run_without_a_number_has_none() -> None:
    assert image_details(IMAGE, {})["runId"] is None


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (999, "999B"), (1000, "1kB"), (5_612_345, "5.61MB"), (2**40, "1.1TB")],
)
def test_sizes_are_written_as_docker_writes_them(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize("told", [5, True, "x", {"created_by": "x"}, [5, None, "x"], None])
def test_a_configuration_with_a_senseless_history_has_none(told: object) -> None:
    """It is read when everything is signed, and must not end the step."""
    assert history({"history": told}, [1, 2]) == []


def test_the_document_goes_to_the_collection_with_the_jobs_token() -> None:
    with SmallServer(lambda _: Reply(200, b"{}")) as server, Transport() as transport:
        post_image_details(transport, f"{server.origin}/my org/", "the shop", "token", {"a": 1})
    (request,) = server.requests
    path = "/my%20org/the%20shop/_apis/deployment/imagedetails"
    assert request.path == f"{path}?api-version=5.0-preview.1"
    assert request.headers["Authorization"] == "Bearer token"
    assert json.loads(request.body) == {"a": 1}


@pytest.mark.parametrize(("status", "error"), [(401, UnauthorizedError), (203, RemoteError)])
def test_a_refusal_is_an_error_that_names_the_server(status: int, error: type[Exception]) -> None:
    with (
        SmallServer(lambda _: Reply(status, b"<html>")) as server,
        Transport() as transport,
        pytest.raises(error, match=f"Azure DevOps http://127.0.0.1.* answered {status}"),
    ):
        post_image_details(transport, server.origin, "shop", "token", {})
