"""The bill of materials says what the wheels say, in one order, and never guesses a licence."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from sbom import bill_of_materials, licence_listing
from vendoring import Requirement, UsedWheel, VendoringError

STATED = (
    "Metadata-Version: 2.4\nName: idna\nLicense-Expression: BSD-3-Clause\n\nLicense: of a text\n"
)


def used(
    folder: Path,
    file: str = "idna-3.20-py3-none-any.whl",
    metadata: str = STATED,
    bill: dict[str, Any] | None = None,
) -> UsedWheel:
    """Write a wheel as small as one can be."""
    name, version = file.split("-")[:2]
    path = folder / file
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}-{version}.dist-info/METADATA", metadata)
        if bill is not None:
            archive.writestr(f"{name}-{version}.dist-info/sboms/inner.json", json.dumps(bill))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return UsedWheel(Requirement(name, version, frozenset({digest})), path, ())


def components(*wheels: UsedWheel) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(bill_of_materials("1.0.0", wheels))["components"]
    return found


def test_a_library_has_the_hash_of_each_of_its_wheels(tmp_path: Path) -> None:
    first = used(tmp_path, "idna-3.20-cp310-none-any.whl")
    other = used(tmp_path, "idna-3.20-cp311-none-any.whl", STATED + "\n")
    (library,) = components(other, first)
    assert library["purl"] == "pkg:pypi/idna@3.20"
    assert library["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert [entry["content"] for entry in library["hashes"]] == [first.sha256, other.sha256]
    assert [part["name"] for part in library["components"]] == [first.path.name, other.path.name]


def test_the_order_in_which_wheels_were_used_does_not_matter(tmp_path: Path) -> None:
    wheels = [used(tmp_path), used(tmp_path, "certifi-1-py3-none-any.whl")]
    assert bill_of_materials("1.0.0", wheels) == bill_of_materials("1.0.0", wheels[::-1])


def test_another_wheel_makes_another_bill(tmp_path: Path) -> None:
    first = json.loads(bill_of_materials("1.0.0", [used(tmp_path)]))
    other = json.loads(bill_of_materials("1.0.0", [used(tmp_path, metadata=STATED + "\n")]))
    assert first["serialNumber"] != other["serialNumber"]


@pytest.mark.parametrize(
    ("header", "found"), [("License: MIT", "MIT"), ("License: MPL-2.0", "MPL-2.0")]
)
def test_an_old_licence_field_counts_where_it_is_an_identifier(
    tmp_path: Path, header: str, found: str
) -> None:
    (library,) = components(used(tmp_path, metadata=f"{header}\n\n"))
    assert library["licenses"] == [{"expression": found}]


@pytest.mark.parametrize("header", ["License: BSD, or so", "Name: idna", "License: "])
def test_a_wheel_without_a_licence_stops_the_build(tmp_path: Path, header: str) -> None:
    with pytest.raises(VendoringError, match=r"idna-3\.20-.*: expected an SPDX expression, got "):
        components(used(tmp_path, metadata=f"{header}\n\n"))


INNER = {
    "components": [
        {
            "name": "openssl",
            "version": "4.0.3",
            "purl": "pkg:generic/openssl@4.0.3?download_url=https://example.com/openssl.tar.gz",
        },
        {
            "name": "cc",
            "version": "1.4.0",
            "scope": "excluded",
            "purl": "pkg:cargo/cc@1.4.0",
            "licenses": [{"expression": "MIT"}],
        },
        {
            "name": "pem",
            "version": "4.0.0",
            "scope": "required",
            "purl": "pkg:cargo/pem@4.0.0",
            "licenses": [{"expression": "MIT"}],
        },
    ]
}


def test_what_is_compiled_into_a_wheel_is_listed_without_addresses_and_tools(
    tmp_path: Path,
) -> None:
    (library,) = components(used(tmp_path, bill=INNER))
    compiled = [part for part in library["components"] if part["type"] == "library"]
    assert [(part["purl"], part["licenses"][0]["expression"]) for part in compiled] == [
        ("pkg:cargo/pem@4.0.0", "MIT"),
        ("pkg:generic/openssl@4.0.3", "Apache-2.0"),
    ]


def test_a_compiled_part_without_a_licence_stops_the_build(tmp_path: Path) -> None:
    part = {"name": "zlib", "version": "1.3", "purl": "pkg:generic/zlib@1.3"}
    with pytest.raises(VendoringError, match="licence of zlib: expected one in the wheel's bill"):
        components(used(tmp_path, bill={"components": [part]}))


def test_people_read_each_licence_beside_its_library(tmp_path: Path) -> None:
    bill = bill_of_materials("1.0.0", [used(tmp_path, bill=INNER)])
    listing = licence_listing(bill, {"idna/LICENSE.md": b"Do as you like.\n"})
    assert "\nidna 3.20: BSD-3-Clause\n    contains pem 4.0.0: MIT\n" in listing
    assert "\nidna/LICENSE.md\n" in listing
    assert listing.endswith("\nDo as you like.\n")
