"""What each command of the step does: use case, outputs, result.

What came of it stands below the groups of the log, which viewers fold away.

Imported while the first question to the trust server is under way.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from signimage.inputs import Command
from signimage.outputs import report, report_build, tell_environments
from signimage.signing import push_and_sign, sign_pushed
from signimage.step import Step
from signimage.verification import Gate, verify


def _push_and_sign(step: Step) -> None:
    order = step.order()
    registry = step.registry()
    from signimage.preparation import source_of  # noqa: PLC0415 -- signing needs no engine

    with source_of(step) as source:
        found = push_and_sign(order, source, registry, step.trust_server(), step.log)
        step.log.close()
        tell_environments(step.task, step.transport, step.inputs, source, registry, found)
    report(step.task, step.inputs, found, order.key_id)


def _build(step: Step) -> None:
    from signimage.preparation import engine_images  # noqa: PLC0415 -- signing needs no engine

    with engine_images(step) as source:
        step.log.step("Preflight")
        source.check()
        step.log.step(source.title)
        source.prepare()
    step.log.close()
    report_build(step.task, step.inputs, *set(source.image_ids.values()))


def _sign(step: Step) -> None:
    order = step.order()
    registry = step.registry(actions="pull")
    found = sign_pushed(order, registry, step.trust_server(), step.log)
    step.log.close()
    report(step.task, step.inputs, found, order.key_id)


def _verify(step: Step) -> None:
    inputs = step.inputs
    gate = Gate(inputs.repository, inputs.tags, inputs.digests, inputs.required_signers)
    registry, server = step.registry(actions="pull"), step.trust_server()
    found = verify(gate, registry, server, step.log)
    step.log.close()
    report(step.task, inputs, found, "")


WORK: Mapping[Command, Callable[[Step], None]] = MappingProxyType(
    {
        Command.BUILD_AND_PUSH: _push_and_sign,
        Command.BUILD: _build,
        Command.PUSH: _push_and_sign,
        Command.SIGN: _sign,
        Command.VERIFY: _verify,
    }
)
