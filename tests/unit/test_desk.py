"""What a workstation offers to a command: which files count, and one way to each server."""

import argparse
import io
import shutil
from pathlib import Path

import pytest

from signimage.console import Console
from signimage.desk import Desk, read_pem
from signimage.errors import CertificateError, FormatError, InputError, NotFoundError
from signimage.oci import Repository
from unit.certificates import Authority
from unit.small_server import Reply, SmallServer


def sit_down(environment: dict[str, str], **arguments: object) -> Desk:
    given = {"trust_server": "", "ca": "", "root_key": [], "root_ca": "", "no_first_use": False}
    console = Console(io.StringIO(), io.StringIO())
    return Desk(environment, argparse.Namespace(**{**given, **arguments}), console)


def test_the_folder_of_docker_is_named_or_in_the_home() -> None:
    assert sit_down({"HOME": "/home"}).docker_config == Path("/home/.docker")
    assert sit_down({"HOME": "/home", "DOCKER_CONFIG": "/x"}).trust_dir == Path("/x/trust")


def test_the_keyring_can_be_left_out() -> None:
    assert sit_down({"HOME": "/home"}, no_keyring=True).keyring is None
    assert sit_down({"HOME": "/home"}).keyring is not None


def test_a_registry_is_believed_by_what_the_engine_believes_it_by(
    tmp_path: Path, authority_of_peers: Authority
) -> None:
    """`certs.d/<host:port>/*.crt`, or the option; nothing else of the folder."""
    environment = {"DOCKER_CONFIG": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    ca_file = authority_of_peers.ca_file
    with SmallServer(lambda _: Reply(404), tls=authority_of_peers.server_context()) as server:
        repository = Repository.parse(f"{server.host}/app")
        with sit_down(environment) as desk, pytest.raises(CertificateError, match="verified"):
            desk.registry(repository).resolve("1")
        with (
            sit_down(environment, ca=str(ca_file)) as desk,
            pytest.raises(NotFoundError, match="does not have"),
        ):
            desk.registry(repository).resolve("1")
        folder = tmp_path / "docker" / "certs.d" / server.host
        folder.mkdir(parents=True)
        shutil.copy(ca_file, folder / "ca.crt")
        with sit_down(environment) as desk, pytest.raises(NotFoundError, match="does not have"):
            desk.registry(repository).resolve("1")


def test_all_that_a_command_asks_one_server_goes_over_one_connection(
    tmp_path: Path, authority_of_peers: Authority
) -> None:
    environment = {"DOCKER_CONFIG": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    with SmallServer(lambda _: Reply(404), tls=authority_of_peers.server_context()) as server:
        with sit_down(environment, ca=str(authority_of_peers.ca_file)) as desk:
            for name in ("a", "b", "c"):
                with pytest.raises(NotFoundError, match=f"does not have {server.host}/{name}:1"):
                    desk.registry(Repository.parse(f"{server.host}/{name}")).resolve("1")
        assert len(server.requests) > 3
        assert server.connections == 1


def test_a_file_that_is_no_key_by_its_size_is_not_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "large.pem"
    path.write_bytes(b"x" * (256 * 1024 + 1))
    with pytest.raises(FormatError, match=r"large\.pem: expected at most 262144 bytes, got more"):
        read_pem(path)
    with pytest.raises(InputError, match="nowhere cannot be read: No such file or directory"):
        read_pem(tmp_path / "nowhere")
