"""The inputs of the step, as far as they can be judged without any machine but this one.

How the agent spells them is `test_task_lib_environment`, what becomes of them `tests/task`.
"""

import io
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_pipelines_task_lib import Task, TaskError
from signimage.errors import InputError, PassphraseError
from signimage.keystore import REPOSITORY_VARIABLE
from signimage.oci import check_tag
from signimage.worker import Inputs, read_inputs

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


def _read(inputs: Mapping[str, str] = {}, more: Mapping[str, str] = {}) -> Inputs:
    environ = {**_environ(inputs), **more}
    return read_inputs(Task(environ, _Stream(), take=(REPOSITORY_VARIABLE,)))


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
    "command": ({"command": "login"}, r"command: expected buildAndPush, got 'login'"),
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


@pytest.mark.parametrize("name", ["repository", "signingKey"])
def test_a_required_input_is_asked_for(name: str) -> None:
    with pytest.raises(TaskError, match=f"input {name}: expected a value, got none"):
        _read({name: ""})


def test_a_connection_that_is_not_the_jobs_is_named() -> None:
    with pytest.raises(InputError, match="service connection other: expected an authorization"):
        _read({"containerRegistry": "other"})


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
