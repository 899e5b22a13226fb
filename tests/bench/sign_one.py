"""Signs one tag, as a process of its own, for the benchmark."""

import os
import sys
from pathlib import Path

from signimage.filemeta import FileMeta
from signimage.keystore import KeyStore, Passphrases
from signimage.notary import TrustServer
from signimage.publication import signing_plan
from signimage.transport import Transport, TransportSettings
from signimage.trustapi import TrustApi


def main(trust_dir: str, url: str, ca_file: str, gun: str, key_id: str, tag: str) -> None:
    """Sign *tag* in *gun* with the key *key_id* of the trust store."""
    key = KeyStore(Path(trust_dir)).load(key_id, Passphrases(os.environ))
    image = FileMeta(529, {"sha256": bytes(32)})
    with Transport(TransportSettings(ca_files=(Path(ca_file),))) as transport:
        server = TrustServer(TrustApi(transport, url, gun))
        server.publish(signing_plan({tag: image}, [key_id]), {key_id: key})


if __name__ == "__main__":
    main(*sys.argv[1:])
