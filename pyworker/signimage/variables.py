"""The environment variables in which people hand over passphrases.

They stand alone because a step takes them out of its environment before it reads anything else,
and waits for nothing to do so.
"""

# Docker asks for the passphrase of root keys under one name, for all others under another.
ROOT_VARIABLE = "DOCKER_CONTENT_TRUST_ROOT_PASSPHRASE"
REPOSITORY_VARIABLE = "DOCKER_CONTENT_TRUST_REPOSITORY_PASSPHRASE"
# Ours: for a key that gets another passphrase, where Docker's variables give the one it has.
NEW_VARIABLE = "SIGNIMAGE_NEW_PASSPHRASE"
