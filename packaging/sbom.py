"""The bill of materials: what the package contains that others wrote, as CycloneDX 1.6.

    component            a library, with its licence and the hashes of the wheels it came from
      components         each of these wheels; and what is compiled into them (OpenSSL, Rust crates)

The rules of this file:

1. Only what is packed is listed, with the hashes of what was unpacked.
2. Licences are SPDX expressions as the wheels state them; a wheel that states none stops the build.
3. What is compiled into a wheel is taken from the bill inside of it (PEP 770), as far as it is
   there. Addresses and parts that only helped to build are left out.
4. The same wheels give the same bytes: no date, no random number.
"""

import hashlib
import json
import re
import uuid
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from itertools import groupby
from pathlib import Path
from typing import Any

from vendoring import UsedWheel, VendoringError

HERE = Path(__file__).resolve().parent

Component = dict[str, Any]  # as CycloneDX has it

# An old field for licences holds all kinds of text; these texts are SPDX expressions.
SPDX = ("Apache-2.0", "BSD-3-Clause", "MIT", "MPL-2.0")
# Stated by the project itself; its entry in the wheel's bill has none.
LICENCES = {"openssl": "Apache-2.0"}


@dataclass(frozen=True, slots=True)
class Embedded:
    """A part of a wheel that the wheel has no bill for; we bring its licence text."""

    name: str
    licence: str  # SPDX
    text: Path


# Statically linked on Linux and Windows; on macOS it is the system's.
EMBEDDED = {"cffi": Embedded("libffi", "MIT", HERE / "licenses" / "libffi.txt")}


def bill_of_materials(version: str, wheels: Iterable[UsedWheel]) -> str:
    """Return the bill of the extension of this *version*, as JSON text.

    Raises:
        VendoringError: A wheel states no licence.
    """
    ordered = sorted(wheels, key=lambda one: (one.library.name, one.path.name))
    grouped = groupby(ordered, key=lambda one: one.library.name)
    components = [library_component(list(group)) for _, group in grouped]
    root = f"signimage-extension@{version}"
    content = json.dumps([root, components]).encode()
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.UUID(bytes=hashlib.sha256(content).digest()[:16], version=4).urn,
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "SignImage",
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
            }
        },
        "components": components,
        "dependencies": [{"ref": root, "dependsOn": [each["bom-ref"] for each in components]}],
    }
    return json.dumps(bill, indent=1) + "\n"


def library_component(wheels: list[UsedWheel]) -> Component:
    """Describe one library by all the wheels that were used of it."""
    library = wheels[0].library
    purl = f"pkg:pypi/{library.name}@{library.version}"
    parts = [wheel_component(wheel, purl) for wheel in wheels]
    parts += embedded_components(library.name, wheels)
    return {
        "type": "library",
        "bom-ref": purl,
        "name": library.name,
        "version": library.version,
        "licenses": [{"expression": licence_of(wheels[0])}],
        "purl": purl,
        "hashes": [hash_of(wheel) for wheel in wheels],
        "components": parts,
    }


def wheel_component(wheel: UsedWheel, purl: str) -> Component:
    """Describe a wheel as the file that it is."""
    name = wheel.path.name
    return {
        "type": "file",
        "bom-ref": f"{purl}?file_name={name}",
        "name": name,
        "hashes": [hash_of(wheel)],
    }


def hash_of(wheel: UsedWheel) -> dict[str, str]:
    """Return the hash of a wheel in CycloneDX's form."""
    return {"alg": "SHA-256", "content": wheel.sha256}


def embedded_components(name: str, wheels: list[UsedWheel]) -> list[Component]:
    """Describe what is compiled into the wheels of library *name*, each part once."""
    found = {
        part["bom-ref"]: part for wheel in wheels for bill in bills(wheel) for part in parts(bill)
    }
    if name in EMBEDDED:
        ours = EMBEDDED[name]
        part = component(ours.name, "", f"pkg:generic/{ours.name}", ours.licence)
        found[part["bom-ref"]] = part
    return [found[reference] for reference in sorted(found)]


def bills(wheel: UsedWheel) -> Iterator[dict[str, Any]]:
    """Yield the bills of materials inside of a wheel."""
    with zipfile.ZipFile(wheel.path) as archive:
        for member in archive.namelist():
            if re.fullmatch(r"[^/]+\.dist-info/sboms/[^/]+\.json", member):
                yield json.loads(archive.read(member))


def parts(bill: dict[str, Any]) -> Iterator[Component]:
    """Yield what a wheel's own bill lists, without what only helped to build it."""
    for each in bill["components"]:
        if each.get("scope") == "excluded":
            continue
        name = each["name"]
        stated = [entry["expression"] for entry in each.get("licenses", [])]
        licence = stated[0] if stated else LICENCES.get(name)
        if licence is None:
            raise VendoringError(f"licence of {name}: expected one in the wheel's bill, got none")
        yield component(name, each["version"], each["purl"].partition("?")[0], licence)


def component(name: str, version: str, purl: str, licence: str) -> Component:
    """Describe a compiled-in library; an empty *version* stands for one that nobody states."""
    part = {"type": "library", "bom-ref": purl, "name": name}
    if version:
        part["version"] = version
    return part | {"licenses": [{"expression": licence}], "purl": purl}


def licence_of(wheel: UsedWheel) -> str:
    """Return the licence that a wheel states, as an SPDX expression.

    Raises:
        VendoringError: It states none, or in words that are none.
    """
    stated = metadata(wheel)
    expression, text = stated["License-Expression"], stated["License"]
    if expression:
        return str(expression)
    if text in SPDX:
        return str(text)
    raise VendoringError(f"licence of {wheel.path.name}: expected an SPDX expression, got {text!r}")


def metadata(wheel: UsedWheel) -> Message:
    """Return the headers of a wheel's METADATA."""
    with zipfile.ZipFile(wheel.path) as archive:
        (member,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(member))


def licence_listing(bill: str, texts: dict[str, bytes]) -> str:
    """Return the licences of everything in a bill of materials, for people to read.

    Args:
        bill: As `bill_of_materials` returns it.
        texts: The licence files, by library and file name: `certifi/LICENSE`.
    """
    lines = ["SignImage contains the work of others, under the licences that follow.", ""]
    for library in json.loads(bill)["components"]:
        compiled = [part for part in library["components"] if part["type"] == "library"]
        lines += [title(library), *(f"    contains {title(part)}" for part in compiled)]
    for name, content in sorted(texts.items()):
        lines += ["", "-" * 80, name, "-" * 80, "", content.decode("utf-8").strip()]
    return "\n".join(lines) + "\n"


def title(each: Component) -> str:
    """Return name, version and licence of a component on one line."""
    words = (each["name"], each.get("version", ""))
    return f"{' '.join(filter(None, words))}: {each['licenses'][0]['expression']}"
