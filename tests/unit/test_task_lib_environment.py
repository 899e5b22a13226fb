"""What the agent put into the environment for one step is taken out and can be looked up."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from azure_pipelines_task_lib import (
    ConnectionDataError,
    EndpointAuthorization,
    EnvironmentFormatError,
    InputRequiredError,
    PathNotFoundError,
    Task,
    TaskError,
    Variable,
)
from azure_pipelines_task_lib.environment import parse_authorization

CONNECTION = "3f2a8c1e-0d5b-4c6e-9a7f-1b2c3d4e5f60"


def task_with(**environ: str) -> Task:
    return Task(environ, io.BytesIO())


def connection(**replaced: str) -> dict[str, str]:
    """Return the environment of a step with one service connection, with *replaced* values."""
    environ = {
        f"ENDPOINT_URL_{CONNECTION}": "https://hub.docker.com/",
        f"ENDPOINT_AUTH_{CONNECTION}": '{"parameters":{"username":"ci","password":"pass-word"},'
        '"scheme":"UsernamePassword"}',
        f"ENDPOINT_AUTH_SCHEME_{CONNECTION}": "UsernamePassword",
        f"ENDPOINT_AUTH_PARAMETER_{CONNECTION}_USERNAME": "ci",
        f"ENDPOINT_AUTH_PARAMETER_{CONNECTION}_PASSWORD": "pass-word",
        f"ENDPOINT_AUTH_PARAMETER_{CONNECTION}_API_KEY": "key-of-api",
        f"ENDPOINT_DATA_{CONNECTION}_REGISTRYTYPE": "Others",
    }
    return environ | {f"ENDPOINT_{name}_{CONNECTION}": value for name, value in replaced.items()}


def test_children_inherit_nothing_that_was_meant_for_this_step() -> None:
    kept = {
        "PATH": "/bin",
        "ENDPOINT_URL_x": "u",
        "ENDPOINT_DATA_x_Y": "d",
        "SECUREFILE_NAME_x": "n",
        "BUILD_BUILDID": "1",
    }
    taken = {
        "INPUT_A": "1",
        "INPUT_EMPTY": "",
        "ENDPOINT_AUTH_x": "{}",
        "ENDPOINT_AUTH_SCHEME_x": "s",
        "ENDPOINT_AUTH_PARAMETER_x_Y": "p",
        "SECUREFILE_TICKET_x": "t",
        "SECRET_S": "s",
        "VSTS_TASKVARIABLE_T": "t",
        "VSTS_PUBLIC_VARIABLES": "[]",
        "VSTS_SECRET_VARIABLES": "[]",
        "COMMAND_CORRELATION_ID": "c",
        "My_Passphrase": "p",
    }
    environ = kept | taken
    task = Task(environ, io.BytesIO(), take=("MY_PASSPHRASE", "NOT_THERE"))
    assert environ == kept
    assert task.taken("My_Passphrase") == "p"
    assert task.taken("NOT_THERE") == ""


def test_a_malformed_list_of_names_leaves_no_secret_behind() -> None:
    environ = {"VSTS_SECRET_VARIABLES": "[", "SECRET_A": "s", "INPUT_B": "i"}
    with pytest.raises(EnvironmentFormatError, match="VSTS_SECRET_VARIABLES: expected a JSON list"):
        Task(environ, io.BytesIO())
    assert environ == {}


@given(st.text())
def test_any_list_of_names_is_read_or_refused(text: str) -> None:
    try:
        task_with(VSTS_PUBLIC_VARIABLES=text).get_variables()
    except TaskError as error:
        assert "VSTS_PUBLIC_VARIABLES" in str(error)  # noqa: PT017 -- refusing is one of two answers


@pytest.mark.parametrize("name", ["containerRegistry", "CONTAINERREGISTRY", "containerregistry"])
def test_an_input_is_found_by_any_spelling_of_its_name(name: str) -> None:
    assert task_with(INPUT_CONTAINERREGISTRY="c").get_input(name) == "c"


def test_dots_and_blanks_of_a_name_are_underscores_in_the_environment() -> None:
    assert task_with(INPUT_MY_LONG_NAME="x").get_input("my.long name") == "x"


def test_a_required_input_that_is_empty_is_missing() -> None:
    with pytest.raises(InputRequiredError, match="input repository: expected a value, got none"):
        task_with(INPUT_REPOSITORY="").get_input("repository", required=True)


@pytest.mark.parametrize(
    ("value", "truth"), [("true", True), ("TRUE", True), ("True", True), ("1", False), ("", False)]
)
def test_only_true_is_true(value: str, truth: bool) -> None:  # noqa: FBT001 -- a table
    assert task_with(INPUT_B=value).get_bool_input("b") is truth


def test_a_list_has_no_empty_items() -> None:
    task = task_with(INPUT_TAGS="\r\n1.0,\r\n, latest\n")
    assert task.get_delimited_input("tags", "\n") == ["\r", "1.0,\r", ", latest"]
    assert task.get_delimited_input("none", ",") == []


def test_a_path_is_checked_only_on_request(tmp_path: object) -> None:
    task = task_with(INPUT_THERE=str(tmp_path), INPUT_MISSING=f"{tmp_path}/none")
    assert task.get_path_input("there", check=True) == str(tmp_path)
    assert task.get_path_input("missing") == f"{tmp_path}/none"
    with pytest.raises(PathNotFoundError, match="input missing: expected an existing path, got /"):
        task.get_path_input("missing", check=True)


def test_an_empty_file_path_is_the_root_that_the_agent_made_of_it() -> None:
    task = task_with(
        BUILD_SOURCESDIRECTORY="/w/s",
        INPUT_A="/w/s",
        INPUT_B="/w/s/x/..",
        INPUT_C="/w/s/file",
    )
    supplied = [name for name in ("a", "b", "c") if task.file_path_supplied(name)]
    assert supplied == ["c"]


def test_variables_keep_their_names_and_secrets_their_secrecy() -> None:
    task = task_with(
        VSTS_PUBLIC_VARIABLES='["Build.BuildId"]',
        VSTS_SECRET_VARIABLES='["My.Secret"]',
        BUILD_BUILDID="7",
        SECRET_MY_SECRET="hidden",
    )
    assert task.get_variables() == (
        Variable("My.Secret", "hidden", is_secret=True),
        Variable("Build.BuildId", "7", is_secret=False),
    )
    assert "hidden" not in repr(task.get_variables())
    assert task.get_variable("my.secret") == "hidden"


@pytest.mark.parametrize("spelling", [CONNECTION, CONNECTION.upper()])
def test_a_connection_is_found_by_any_spelling_of_its_id(spelling: str) -> None:
    task = task_with(**connection())
    assert task.get_endpoint_url(spelling) == "https://hub.docker.com/"
    assert task.get_endpoint_authorization_scheme(spelling) == "UsernamePassword"
    assert task.get_endpoint_authorization_parameter(spelling, "password") == "pass-word"
    assert task.get_endpoint_authorization_parameter(spelling, "api.key") == "key-of-api"
    assert task.get_endpoint_data_parameter(spelling, "registryType") == "Others"
    assert task.get_endpoint_authorization(spelling) == EndpointAuthorization(
        "UsernamePassword", {"username": "ci", "password": "pass-word"}
    )


def test_a_connection_that_was_not_handed_over_is_named() -> None:
    task = task_with()
    for ask in (
        task.get_endpoint_url,
        task.get_endpoint_authorization_scheme,
        task.get_endpoint_authorization,
    ):
        with pytest.raises(ConnectionDataError, match=r"connection abc: expected .*got none"):
            ask("abc")
    with pytest.raises(ConnectionDataError, match="abc: expected data k, got none"):
        task.get_endpoint_data_parameter("abc", "k")
    with pytest.raises(ConnectionDataError, match="expected authorization parameter k, got none"):
        task.get_endpoint_authorization_parameter("abc", "k")
    assert task.get_endpoint_authorization_parameter("abc", "k", required=False) == ""


@pytest.mark.parametrize(
    "lie", ["hunter22", "[]", '{"scheme":1}', '{"parameters":["p"]}', '{"a":' * 50_000]
)
def test_a_malformed_authorization_is_refused_and_not_quoted(lie: str) -> None:
    task = task_with(**connection(AUTH=lie))
    with pytest.raises(ConnectionDataError, match="expected JSON with scheme") as caught:
        task.get_endpoint_authorization(CONNECTION)
    assert lie not in str(caught.value)
    assert caught.value.__context__ is None


@given(st.text())
def test_any_authorization_is_read_or_refused(text: str) -> None:
    try:
        parse_authorization(text)
    except ConnectionDataError as error:
        assert ": expected " in str(error)  # noqa: PT017 -- refusing is one of two answers


@pytest.mark.parametrize(
    "text",
    [
        '{"scheme":"UsernamePassword","parameters":{"password":"pass\\ud800word"}}',
        '{"scheme":"Username\\udfffPassword","parameters":{}}',
        '{"scheme":"UsernamePassword","parameters":{"pass\\udc00word":"x"}}',
    ],
)
def test_an_authorization_that_no_request_can_hold_is_refused_and_not_quoted(text: str) -> None:
    """JSON may spell half of a surrogate pair; met later, it would end the step without a word."""
    task = task_with(**connection(AUTH=text))
    with pytest.raises(ConnectionDataError, match=r": expected Unicode text, got something") as e:
        task.get_endpoint_authorization(CONNECTION)
    assert "pass" not in str(e.value)


def test_a_parameter_of_bytes_that_are_not_utf_8_is_refused_and_not_quoted() -> None:
    task = task_with(**{f"ENDPOINT_AUTH_PARAMETER_{CONNECTION}_PASSWORD": "pass\udcffword"})
    claim = r"expected authorization parameter Password in Unicode, got something else$"
    with pytest.raises(ConnectionDataError, match=claim):
        task.get_endpoint_authorization_parameter(CONNECTION, "Password")


def test_a_connection_shows_no_password_in_its_repr() -> None:
    assert "pass-word" not in repr(task_with(**connection()).get_endpoint_authorization(CONNECTION))


def test_a_secure_file_is_found_by_any_spelling_of_its_id() -> None:
    task = task_with(
        **{f"SECUREFILE_NAME_{CONNECTION}": "ci.key", f"SECUREFILE_TICKET_{CONNECTION}": "t-1"}
    )
    assert task.get_secure_file_name(CONNECTION.upper()) == "ci.key"
    assert task.get_secure_file_ticket(CONNECTION.upper()) == "t-1"
    assert task.get_secure_file_name("other") == ""
