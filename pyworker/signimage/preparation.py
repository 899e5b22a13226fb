"""Where the images of this step come from, as its inputs say.

Imported by the commands that bring an image into the registry, and by no other.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from signimage.azure import pipeline_labels
from signimage.buildarguments import read_arguments, split_arguments
from signimage.dockerbuild import BuildRequest
from signimage.dockerconfig import login_key, private_config
from signimage.dockerfile import (
    build_context,
    find_dockerfile,
    read_dockerfile,
    write_dockerfile,
)
from signimage.engine import Docker
from signimage.errors import EngineError, InputError
from signimage.inputs import Command
from signimage.notary import TrustServer
from signimage.oci import Digest, Reference, Repository
from signimage.outputs import public_variables
from signimage.pinning import NO_PINS, RootPins
from signimage.registry import Registry
from signimage.sources import ArchivedImage, BuiltImage, EngineImages
from signimage.step import PERCENT, Step, below_root, is_debugged
from signimage.trustapi import default_trust_server

if TYPE_CHECKING:
    from signimage.buildx import Builder


@contextmanager
def source_of(step: Step) -> Iterator[EngineImages | ArchivedImage]:
    """Where the images come from."""
    if step.inputs.image_archive:
        with ExitStack() as opened:
            yield _archive(step, opened)
    else:
        with engine_images(step) as images:
            yield images


def _archive(step: Step, opened: ExitStack) -> ArchivedImage:
    inputs = step.inputs
    return ArchivedImage(
        inputs.repository,
        inputs.tags,
        partial(_show_push, step),
        below_root(step.task, inputs.image_archive),
        step.folder,
        opened,
        name=f"{inputs.repository}:{inputs.tags[0]}",
    )


@contextmanager
def engine_images(step: Step) -> Iterator[EngineImages]:
    """Images of an engine: those that it has, or one that is built."""
    inputs, login = step.inputs, step.inputs.login
    request = _build_request(step) if inputs.command.builds else None
    now = step.credentials.current()
    auths = {login_key(login.host): now} if login and now else {}
    with (
        private_config(step.folder, auths, os.environ) as config,
        Docker(os.environ, config) as engine,
    ):
        _tell_versions(step, engine)
        parts = (
            engine,
            inputs.repository,
            inputs.tags,
            step.credentials,
            partial(_show_push, step),
        )
        if request is None:
            yield EngineImages(*parts)
        else:
            yield BuiltImage(
                *parts,
                request,
                inputs.platforms,
                inputs.command is Command.BUILD_AND_PUSH,
                inputs.add_base_image_data,
                step.task.sink,
                partial(_pinned, step),
                step.folder,
                os.environ,
            )


def _tell_versions(step: Step, engine: Docker) -> None:
    """Tell a debug log which engine it is, and who talks to it."""
    if is_debugged(step.task):
        with suppress(EngineError):  # the preflight reports it
            versions = engine.versions()
            step.task.debug(f"Engine {versions.engine or 'unknown'}, by {versions.client}")


def _pinned(step: Step, request: BuildRequest, builder: "Builder | None") -> BuildRequest:
    """The request on base images that are trusted, as far as the inputs ask for that."""
    if step.inputs.base_images == "off":
        return request
    if file := read_arguments(request.arguments).file:  # it would be built, and not be looked at
        raise InputError(
            f"arguments: expected the input Dockerfile to say what is built, got --file {file}",
            hint="Set the input Dockerfile instead, so that its base images are looked at",
        )
    # Most builds ask for none of it, and it takes some 30 ms to import.
    from signimage.bases import BasePolicy, trusted_bases  # noqa: PLC0415 -- the same
    from signimage.stages import build_options, read_stages  # noqa: PLC0415 -- the same

    policy = BasePolicy(step.inputs.base_images)
    options = build_options(request.arguments, os.environ, is_classic=builder is None)
    stages = read_stages(read_dockerfile(request.dockerfile), options)
    bases = trusted_bases(
        stages, policy, partial(_trust_of, step), step.log.done, partial(_digest_of, step)
    )
    for warning in bases.warnings:
        step.task.warning(warning)
    text = bases.dockerfile()
    if text is not None:
        written = write_dockerfile(text, request.dockerfile, step.folder)
        request = replace(request, dockerfile=written)
    labels = bases.labels if step.inputs.add_base_image_data else {}
    return replace(
        request,
        arguments=(*request.arguments, *bases.build_arguments),
        labels={**request.labels, **labels},
    )


def _trust_of(step: Step, base: Repository) -> TrustServer:
    inputs = step.inputs
    is_ours = base.host == inputs.repository.host
    url = inputs.trust_server if is_ours else default_trust_server(base.host)
    pins = RootPins(inputs.root_keys) if base == inputs.repository else NO_PINS
    return TrustServer(step.trust_api(base, url, "pull"), pins=pins)


def _digest_of(step: Step, base: Reference) -> Digest:
    login = step.login_at(base.repository.host)
    registry = Registry(step.transport, base.repository, login, actions="pull")
    return registry.resolve(base.tag).descriptor.digest


def _show_push(step: Step, percent: int) -> None:
    begin, end = PERCENT["Push"], PERCENT["Sign"]
    step.task.set_progress(begin + (end - begin) * percent // 100, f"Push: {percent} %")


def _build_request(step: Step) -> BuildRequest:
    """What to build; the log is told of arguments that were left out."""
    task, inputs = step.task, step.inputs
    root = below_root(task, "")
    dockerfile = find_dockerfile(inputs.dockerfile, root)
    arguments, left_out = split_arguments(inputs.arguments)
    if left_out:
        words = " ".join(left_out)
        step.log.done(f"Left out of the arguments, as this step signs by itself: {words}")
    variables = public_variables(task)
    return BuildRequest(
        dockerfile=dockerfile,
        context=build_context(inputs.build_context, dockerfile, root),
        references=tuple(f"{inputs.repository}:{tag}" for tag in inputs.tags),
        labels=pipeline_labels(variables, add_pipeline_data=inputs.add_pipeline_data),
        arguments=arguments,
    )
