"""The inputs of the step, as far as they can be judged without any machine but this one.

How the agent spells them is `test_task_lib_environment`, what becomes of them `tests/task`.
"""

import io
import json
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_pipelines_task_lib import Task, TaskError
from signimage.entra import FederatedIdentity, IdTokenRequest, ManagedIdentity
from signimage.errors import InputError, PassphraseError
from signimage.inputs import Inputs, read_inputs
from signimage.keystore import REPOSITORY_VARIABLE
from signimage.oci import check_tag
from signimage.response import Credentials

_FILE = "0b4c9d0e-51f7-4c3a-9a1e-7f1d2c3b4a59"
_CONNECTION = "6d1fbb54-0b1b-4d3c-9c62-3e6a3b8f2a55"
_INPUTS = {
    "command": "buildAndPush",
    "containerRegistry": _CONNECTION,
    "repository": "team/app",
    "tags": "1.0",
    "signingKey": _FILE,
}
_PARAMETERS = {"registry": "https://reg.example.com", "username": "robot", "password": "password"}


class _Stream(io.BytesIO):
    """A standard output that nobody reads."""

    def fileno(self) -> int:
        return 1


def _environ(inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a step that is as it should be, but for *inputs*."""
    authorization = {"scheme": "UsernamePassword", "parameters": _PARAMETERS}
    return {
        **{f"INPUT_{name.upper()}": value for name, value in {**_INPUTS, **inputs}.items()},
        f"ENDPOINT_AUTH_{_CONNECTION}": json.dumps(authorization),
        f"SECUREFILE_NAME_{_FILE}": "ci.key",
        f"SECUREFILE_TICKET_{_FILE}": "ticket",
        "ENDPOINT_AUTH_PARAMETER_SYSTEMVSSCONNECTION_ACCESSTOKEN": "job token",
        REPOSITORY_VARIABLE: "passphrase",
        "VSTS_PUBLIC_VARIABLES": "[]",
    }


def _read(
    inputs: Mapping[str, str] = {}, more: Mapping[str, str] = {}, hosts: Sequence[str] = ()
) -> Inputs:
    environ = {**_environ(inputs), **more}
    return read_inputs(Task(environ, _Stream(), take=(REPOSITORY_VARIABLE,)), lambda: hosts)


def test_what_is_not_given_has_its_documented_value() -> None:
    inputs = _read()
    assert (inputs.dockerfile, inputs.build_context, inputs.arguments) == (
        "**/Dockerfile",
        "**",
        "",
    )
    assert (inputs.add_pipeline_data, inputs.add_base_image_data) == (True, True)
    assert inputs.trust_server == "https://reg.example.com"
    assert inputs.root_keys == frozenset()
    assert inputs.repository.gun == "reg.example.com/team/app"


def test_a_secret_is_in_no_representation() -> None:
    shown = repr(_read())
    for secret in ("password'", "passphrase", "ticket'", "job token"):
        assert secret not in shown


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("1.0", ("1.0",)),
        ("1.0,latest", ("1.0", "latest")),
        ("1.0\r\nlatest\r\n", ("1.0", "latest")),
        (" 1.0 ,, \n latest,1.0", ("1.0", "latest")),
        ("b\na\nb", ("b", "a")),
    ],
)
def test_tags_are_separated_by_line_ends_and_commas_and_count_once(
    text: str, tags: tuple[str, ...]
) -> None:
    assert _read({"tags": text}).tags == tags


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_any_text_is_legal_tags_or_an_input_error(text: str) -> None:
    try:
        tags = _read({"tags": text}).tags
    except InputError:
        return
    assert tags
    assert len(set(tags)) == len(tags)
    for tag in tags:
        check_tag(tag)


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60))
def test_any_text_is_a_repository_of_the_connection_or_an_error(text: str) -> None:
    try:
        repository = _read({"repository": text}).repository
    except (InputError, TaskError):
        return
    assert repository.host == "reg.example.com"


@pytest.mark.parametrize(
    ("text", "gun"),
    [
        ("Team/App", "reg.example.com/team/app"),
        ("team / app", "reg.example.com/team/app"),
        ("reg.example.com/team/app", "reg.example.com/team/app"),
        ("a/b/c/d", "reg.example.com/a/b/c/d"),
    ],
)
def test_repositories_are_written_as_docker_at_2_takes_them(text: str, gun: str) -> None:
    assert _read({"repository": text}).repository.gun == gun


@pytest.mark.parametrize("text", ["false", "False", "FALSE"])
def test_a_switch_is_turned_off_in_any_letter_case(text: str) -> None:
    assert not _read({"addPipelineData": text}).add_pipeline_data


def test_root_keys_are_compared_in_lower_case() -> None:
    pins = f"{'A' * 64},\r\n{'b' * 64}"
    assert _read({"rootKeys": pins}).root_keys == {"a" * 64, "b" * 64}


def test_the_trust_server_of_the_environment_is_used_where_the_input_is_empty() -> None:
    given_ = {"DOCKER_CONTENT_TRUST_SERVER": "https://notary.example.com"}
    assert _read(more=given_).trust_server == "https://notary.example.com"
    named = _read({"trustServer": "https://other.example.com"}, given_)
    assert named.trust_server == "https://other.example.com"


_REFUSED = {
    "command": ({"command": "pull"}, r"command: expected one of buildAndPush, .*, got 'pull'"),
    "digest": ({"tags": "1.0@sha256:0"}, r"tags: expected tags, got '1.0@sha256:0'"),
    "odd digest": (
        {"command": "sign", "tags": "1.0@sha256:0"},
        r"tags: expected TAG@sha256:…, got '1.0@sha256:0'",
    ),
    "a digest from an empty variable": (
        {"command": "verify", "tags": "1.0@"},
        r"tags: expected TAG@sha256:…, got '1.0@'",
    ),
    "two digests": (
        {"command": "verify", "tags": f"1.0@sha256:{'0' * 64},1.0,1.0@sha256:{'1' * 64}"},
        f"tags: expected one digest of 1.0, got sha256:{'0' * 64} and sha256:{'1' * 64}",
    ),
    "other repository": (
        {"command": "verify", "tags": "reg.example.com/other:1.0"},
        r"tags: expected tags of reg.example.com/team/app, got 'reg.example.com/other:1.0'",
    ),
    "no tag": (
        {"command": "verify", "tags": "reg.example.com/team/app"},
        r"tags: expected tags of reg.example.com/team/app",
    ),
    "signer": ({"command": "verify", "requiredSigners": "A b"}, r"signer name 'A b': expected"),
    "no tags": ({"tags": ""}, r"tags: expected at least one tag, got none"),
    "blank tags": ({"tags": ", \r\n,"}, r"tags: expected at least one tag, got none"),
    "tag": ({"tags": "-x"}, r"tag '-x' is not a legal name"),
    "long tag": ({"tags": "x" * 129}, r"tag 'x{129}' is not a legal name"),
    "unknown tag": ({"tags": "1.0,$(nope)"}, r"tags: no variable is known .* \$\(nope\)"),
    "segment": ({"repository": "team//app"}, r"repository 'team//app' is not a legal name"),
    "letters": ({"repository": "team/äpp"}, r"repository 'team/äpp' is not a legal name"),
    "with tag": ({"repository": "team/app:1"}, r"repository 'team/app:1' is not a legal name"),
    "unknown": ({"repository": "$(nope)"}, r"input repository is the literal text \$\(nope\)"),
    "short pin": ({"rootKeys": "abc"}, r"rootKeys: expected key IDs of 64 .*, got 'abc'"),
    "odd pin": ({"rootKeys": "g" * 64}, r"rootKeys: expected key IDs of 64 .*, got 'g{64}'"),
}


@pytest.mark.parametrize("case", _REFUSED)
def test_an_input_without_a_legal_value_is_refused(case: str) -> None:
    inputs, sentence = _REFUSED[case]
    with pytest.raises(InputError, match=sentence):
        _read(inputs)


@pytest.mark.parametrize("text", ["BUILDANDPUSH", "build", "Push", "sign", "verify"])
def test_commands_are_read_in_any_letter_case(text: str) -> None:
    assert _read({"command": text}).command.value.lower() == text.lower()


@pytest.mark.parametrize("text", ["login", "logout", "start", "stop"])
def test_a_command_of_docker_at_2_that_is_not_needed_is_called_so(text: str) -> None:
    with pytest.raises(InputError, match=f"got '{text}'") as caught:
        _read({"command": text})
    assert caught.value.hint.startswith("Remove the step: this step")


@pytest.mark.parametrize("command", ["sign", "verify"])
def test_what_was_signed_elsewhere_is_named_with_its_digest(command: str) -> None:
    """The output `imageReferences` of one step is what another step checks."""
    digest = "sha256:" + "ab" * 32
    text = f"1.0@{digest}\nreg.example.com/team/app:2.0@{digest}, latest"
    inputs = _read({"command": command, "tags": text})
    assert inputs.tags == ("1.0", "2.0", "latest")
    assert {tag: str(digest) for tag, digest in inputs.digests.items()} == {
        "1.0": digest,
        "2.0": digest,
    }


@pytest.mark.parametrize("command", ["build", "verify"])
def test_a_command_that_signs_nothing_needs_no_key(command: str) -> None:
    inputs = _read({"command": command, "signingKey": ""})
    assert inputs.signing_key is None


def test_only_a_build_needs_no_registry() -> None:
    assert _read({"command": "build", "containerRegistry": ""}).repository.gun == (
        "docker.io/team/app"
    )
    with pytest.raises(InputError, match="input containerRegistry: expected a service connection"):
        _read({"command": "verify", "containerRegistry": ""})


def test_a_login_of_an_earlier_step_says_which_registry_is_meant() -> None:
    """As `Docker@2` understands it; of several, none can be chosen."""
    alone = _read({"containerRegistry": ""}, hosts=["reg.example.com:5000"])
    assert alone.repository.gun == "reg.example.com:5000/team/app"
    with pytest.raises(InputError, match=r"got logins to a\.example\.com, b\.example\.com"):
        _read({"containerRegistry": ""}, hosts=["a.example.com", "b.example.com"])


def test_build_names_an_image_as_push_will_look_for_it() -> None:
    """Without a connection both take the registry that an earlier step logged in to."""
    given = {"command": "build", "containerRegistry": ""}
    assert _read(given, hosts=["reg.example.com"]).repository.gun == "reg.example.com/team/app"
    assert _read(given, hosts=[]).repository.gun == "docker.io/team/app"


def test_docker_hub_named_in_the_repository_is_meant() -> None:
    given = {"containerRegistry": "", "repository": "docker.io/team/app"}
    assert _read(given, hosts=["reg.example.com"]).repository.gun == "docker.io/team/app"


@pytest.mark.parametrize("name", ["repository", "signingKey"])
def test_a_required_input_is_asked_for(name: str) -> None:
    with pytest.raises(TaskError, match=f"input {name}: expected a value, got none"):
        _read({name: ""})


def test_a_connection_that_is_not_the_jobs_is_named() -> None:
    with pytest.raises(InputError, match="service connection other: expected an authorization"):
        _read({"containerRegistry": "other"})


@pytest.mark.parametrize("form", ["{}", "{{{}}}", "({})"])
@pytest.mark.parametrize("input_", ["containerRegistry", "signingKey"])
def test_an_id_is_read_in_every_form_in_which_the_agent_reads_it(form: str, input_: str) -> None:
    """It names what it gives to the step by the usual one."""
    known = {"containerRegistry": _CONNECTION, "signingKey": _FILE}[input_]
    for text in (known.upper(), known.replace("-", "")):
        inputs = _read({input_: form.format(text)})
        assert inputs.signing_key is not None
        assert inputs.signing_key.ticket == "ticket"
        assert inputs.login is not None


_AZURE = {
    "loginServer": "myreg.azurecr.io",
    "tenantId": "7c6e2b0a-5b1d-4e0f-9a53-0a8d3b1f6c21",
    "serviceprincipalid": "0d9f1c52-83b4-4b2c-8f0e-5b6a7c8d9e0f",
    "serviceprincipalkey": "client secret",
}


def _azure(scheme: str) -> dict[str, str]:
    """Return what an agent says of a connection to Azure: as JSON, and one by one."""
    document = {"scheme": scheme, "parameters": _AZURE}
    singles = {
        f"ENDPOINT_AUTH_PARAMETER_{_CONNECTION}_{name.upper()}": value
        for name, value in _AZURE.items()
    }
    return {
        f"ENDPOINT_AUTH_{_CONNECTION}": json.dumps(document),
        f"ENDPOINT_AUTH_SCHEME_{_CONNECTION}": scheme,
        f"ENDPOINT_DATA_{_CONNECTION}_REGISTRYTYPE": "ACR",
        f"ENDPOINT_URL_{_CONNECTION}": "https://management.azure.com/",
        **singles,
    }


def test_a_connection_to_azure_is_read_with_its_data() -> None:
    inputs = _read(more=_azure("ServicePrincipal"))
    assert inputs.repository.gun == "myreg.azurecr.io/team/app"
    assert inputs.trust_server == "https://myreg.azurecr.io"
    assert inputs.login is not None
    assert inputs.login.proof == Credentials(_AZURE["serviceprincipalid"], "client secret")


@pytest.mark.parametrize(
    "absent",
    [
        f"ENDPOINT_AUTH_{_CONNECTION}",
        f"ENDPOINT_AUTH_SCHEME_{_CONNECTION}",
        f"ENDPOINT_AUTH_PARAMETER_{_CONNECTION}",
    ],
)
def test_a_connection_is_read_from_either_form(absent: str) -> None:
    """One by one, or as JSON; the scheme is in both."""
    whole = _azure("ServicePrincipal")
    part = {name: "" if name.startswith(absent) else value for name, value in whole.items()}
    assert "" in part.values()
    login = _read(more=part).login
    assert login is not None
    assert login.proof == Credentials(_AZURE["serviceprincipalid"], "client secret")


def test_a_federated_connection_knows_its_job() -> None:
    more = {
        **_azure("WorkloadIdentityFederation"),
        f"ENDPOINT_DATA_{_CONNECTION}_ACTIVEDIRECTORYAUTHORITY": "https://login.windows.net/",
        "SYSTEM_TEAMFOUNDATIONCOLLECTIONURI": "https://dev.azure.com/org/",
        "SYSTEM_TEAMPROJECTID": "p",
        "SYSTEM_HOSTTYPE": "release",
        "SYSTEM_PLANID": "1",
        "SYSTEM_JOBID": "2",
    }
    login = _read(more=more).login
    assert login is not None
    assert isinstance(login.proof, FederatedIdentity)
    assert login.proof.authority == "login.windows.net"
    assert login.proof.audience == "https://management.azure.com/"
    assert login.proof.id_token == IdTokenRequest(
        "https://dev.azure.com/org/p/_apis/distributedtask/hubs/release/plans/1/jobs/2/oidctoken",
        _CONNECTION,
        "job token",
    )


def test_a_managed_identity_may_be_asked_for_at_a_stand_in() -> None:
    more = {
        **_azure("ManagedServiceIdentity"),
        "AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:4242",
    }
    login = _read(more=more).login
    assert login is not None
    assert isinstance(login.proof, ManagedIdentity)
    assert login.proof.host == "http://127.0.0.1:4242"


def test_a_macro_as_passphrase_is_refused_by_its_name() -> None:
    with pytest.raises(PassphraseError, match=r"is the literal text \$\(nope\): no variable"):
        _read(more={REPOSITORY_VARIABLE: "$(nope)"})


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_a_passphrase_arrives_as_it_is(passphrase: str) -> None:
    """Blanks at its ends, percents and quotes included."""
    try:
        assert _read(more={REPOSITORY_VARIABLE: passphrase}).passphrase == passphrase
    except PassphraseError:
        assert passphrase.strip().startswith("$(")
