#!/usr/bin/env bash
# Installs what this project needs and this machine lacks; `make` calls it before anything else.
#
#   packaging/setup.sh unit    Python libraries only: no root, no peers
#   packaging/setup.sh all     and Debian packages, and the programs from npm
#
# Each step first asks whether it is needed, so a second run takes no time. What a step installed
# carries the hash of what it was installed from, and goes with it when it is deleted.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "setup: $*" >&2; }
die() { say "$*"; exit 1; }
has() { PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin command -v "$1" >/dev/null; }

missing=()
need() { has "$1" || missing+=("$2"); }

debian_packages() {
    # dockerd is of use only where no engine answers.
    if ! has docker; then missing+=(docker.io)
    elif ! has dockerd && ! docker version >/dev/null 2>&1; then missing+=(docker.io); fi
    need docker-registry docker-registry
    need notary notary
    need notary-server notary
    need setpriv util-linux
    need openssl openssl
    # Debian keeps the programs of PostgreSQL's server out of PATH.
    has postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
    need node nodejs
    need npm npm
    # Statically linked, or it does not run in an image that is made from nothing.
    if ! has busybox || ldd "$(command -v busybox)" >/dev/null 2>&1; then missing+=(busybox-static); fi
    need python3 python3
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    if ((${#missing[@]} == 0)); then return; fi

    has apt-get || die "missing: ${missing[*]} (names of Debian packages). Install them, then run this again."
    ((EUID == 0)) || die "missing: ${missing[*]}. Only root can install them: sudo apt-get install --no-install-recommends ${missing[*]}"
    say "installing the Debian packages ${missing[*]}"
    # Package lists may be absent or old; that shows when they are used.
    apt_install 2>/dev/null || { apt-get update -qq && apt_install; }
}

apt_install() {
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
}

# is_stamped FOLDER SOURCE...: was FOLDER installed from these files as they are now?
is_stamped() { [[ -f $1/.installed-from && $(<"$1/.installed-from") == "$(hash_of "${@:2}")" ]]; }
stamp() { hash_of "${@:2}" >"$1/.installed-from"; }
hash_of() { cat "$@" | sha256sum; }

find_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 /usr/bin/python3; do
        if "$name" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    die "no Python 3.10 or newer with its venv module. On Debian or Ubuntu: apt-get install python3-venv"
}

python_libraries() {
    local sources=(requirements/dev.txt pyproject.toml) python
    if is_stamped .venv "${sources[@]}"; then return; fi
    if [[ ! -x .venv/bin/python ]]; then
        python=$(find_python)
        say "making .venv with $python"
        "$python" -m venv .venv
    fi
    say "installing the Python libraries of requirements/dev.txt"
    .venv/bin/python -m pip install -qq --disable-pip-version-check --require-hashes --requirement requirements/dev.txt
    .venv/bin/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
    stamp .venv "${sources[@]}"
}

npm_programs() {
    local folder
    for folder in packaging tests/task/oracle; do
        if is_stamped "$folder/node_modules" "$folder/package-lock.json"; then continue; fi
        say "installing the npm packages of $folder"
        (cd "$folder" && npm ci --silent --no-progress --no-audit --no-fund --ignore-scripts)
        stamp "$folder/node_modules" "$folder/package-lock.json"
    done
}

case ${1:-all} in
    unit) python_libraries ;;
    all)
        # One a line: after "&&" a failure inside of a function would not end the script.
        debian_packages
        python_libraries
        npm_programs
        ;;
    *) die "expected unit or all, got $1" ;;
esac
