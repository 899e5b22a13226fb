"""Wheels become the tree the worker imports from, or the build stops and says why."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest
import vendoring
from vendoring import Requirement, VendoringError, place, requirements, targets, unpack

HASH = "ab" * 32


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_requirement_is_read_with_all_its_hashes_and_without_its_marker() -> None:
    hashes = f"--hash=sha256:{HASH} \\\n    --hash=sha256:{HASH[::-1]}"
    text = f"cffi==2.1.1 ; implementation_name != 'pypy' \\\n    {hashes}\n    # via cryptography\n"
    found = requirements(text)["cffi"]
    assert found == Requirement("cffi", "2.1.1", frozenset({HASH, HASH[::-1]}))
    assert found.line == f"cffi==2.1.1 --hash=sha256:{HASH} --hash=sha256:{HASH[::-1]}\n"


def test_a_library_pinned_in_two_versions_is_refused() -> None:
    with pytest.raises(VendoringError, match=r"idna: expected one version, got 3\.1 and 3\.2"):
        requirements("idna==3.1\nidna==3.2\n")


def test_the_projects_own_pins_have_a_rule_each() -> None:
    pinned = set(requirements(vendoring.REQUIREMENTS.read_text("utf-8")))
    parts = (vendoring.PURE, vendoring.PER_PLATFORM, vendoring.PER_PYTHON, vendoring.LEFT_OUT)
    assert pinned == {name for part in parts for name in part}


def test_a_cached_wheel_with_another_content_is_not_used(tmp_path: Path) -> None:
    """The right name and one lie: a byte more."""
    good = wheel(tmp_path / "idna-3.20-py3-none-any.whl", {"idna.py": b""})
    pinned = Requirement("idna", "3.20", frozenset({hashlib.sha256(good.read_bytes()).hexdigest()}))
    assert pinned.accepts(good)
    good.write_bytes(good.read_bytes() + b"\0")
    assert not pinned.accepts(good)


@pytest.mark.parametrize(
    ("member", "name", "where"),
    [
        ("cryptography/x509/base.py", "cryptography", "common/cryptography/x509/base.py"),
        ("cryptography/hazmat/bindings/_rust.abi3.so", "cryptography", "native/_rust.abi3.so"),
        ("cryptography/py.typed", "cryptography", None),
        ("_cffi_backend.cp310-win_amd64.pyd", "cffi", "native/_cffi_backend.cp310-win_amd64.pyd"),
        ("cffi/api.py", "cffi", None),
        ("certifi/cacert.pem", "certifi", "common/certifi/cacert.pem"),
        ("idna-3.20.dist-info/licenses/LICENSE.md", "idna", "licenses/idna/LICENSE.md"),
        ("idna-3.20.dist-info/RECORD", "idna", None),
        ("certifi/tests/test_certify.py", "certifi", None),
    ],
)
def test_every_kind_of_file_has_its_place(member: str, name: str, where: str | None) -> None:
    assert place(member, name) == where


@pytest.mark.parametrize("member", ["../escape.py", "/etc/escape.py"])
def test_a_wheel_that_reaches_outside_is_refused(member: str) -> None:
    with pytest.raises(VendoringError, match="expected paths inside of it"):
        place(member, "idna")


def test_a_file_without_a_rule_stops_the_build() -> None:
    """Also in a wheel of which only the compiled module is used: it might need that file."""
    with pytest.raises(VendoringError, match=r"no rule says what becomes of 'idna/table\.bin'"):
        place("idna/table.bin", "idna")
    with pytest.raises(VendoringError, match=r"no rule says what becomes of 'libffi-8\.dll'"):
        place("libffi-8.dll", "cffi")


def test_the_places_of_the_files_of_a_wheel_are_remembered(tmp_path: Path) -> None:
    found = wheel(
        tmp_path / "cryptography.whl",
        {
            "cryptography/a.py": b"1\n",
            "cryptography/a.pyi": b"",
            "cryptography/hazmat/bindings/_rust.pyd": b"MZ",
        },
    )
    assert unpack("cryptography", found, tmp_path / "vendor", "win-amd64") == (
        "common/cryptography/a.py",
        "native/win-amd64/_rust.pyd",
    )
    packed = (path for path in (tmp_path / "vendor").rglob("*") if path.is_file())
    assert {path.relative_to(tmp_path / "vendor").as_posix() for path in packed} == {
        "common/cryptography/a.py",
        "native/win-amd64/_rust.pyd",
    }


def test_platforms_that_disagree_on_a_shared_file_stop_the_build(tmp_path: Path) -> None:
    first = wheel(tmp_path / "first.whl", {"cryptography/a.py": b"1\n"})
    other = wheel(tmp_path / "other.whl", {"cryptography/a.py": b"2\n"})
    unpack("cryptography", first, tmp_path / "vendor", "linux-x86_64")
    with pytest.raises(VendoringError, match=r"cryptography/a\.py: expected the same file"):
        unpack("cryptography", other, tmp_path / "vendor", "linux-aarch64")


def test_a_platform_is_a_line_of_data() -> None:
    """Two platforms and three Pythons: one common choice, one per platform, one per pair."""
    platforms = {"linux-x86_64": {"wheels": ["a"]}, "macos-arm64": {"wheels": ["b", "c"]}}
    chosen = list(targets(platforms, ["3.10", "3.11", "3.12"]))
    assert len(chosen) == 1 + 2 + 2 * 3
    assert [t.platform for t in chosen if t.names == vendoring.PER_PLATFORM] == list(platforms)


def test_no_two_platforms_of_the_table_run_on_the_same_machine() -> None:
    table = json.loads(vendoring.PLATFORMS.read_text("utf-8"))
    machines = [json.dumps(p["runs_on"], sort_keys=True) for p in table["platforms"].values()]
    assert len(set(machines)) == len(machines)
