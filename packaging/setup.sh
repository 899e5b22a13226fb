#!/usr/bin/env bash
# Installs what this project needs and this machine lacks; `make` calls it before anything else.
#
#   packaging/setup.sh unit    Python libraries only: no root, no peers
#   packaging/setup.sh all     and Debian packages, the programs from npm, and a BuildKit
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
    need runc runc
    need skopeo skopeo
    need setpriv util-linux
    need openssl openssl
    # What completes command lines is tried in the shells themselves.
    need zsh zsh
    need fish fish
    # A keyring as desktops have it.
    need dbus-daemon dbus
    need gnome-keyring-daemon gnome-keyring
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

# A BuildKit that can do what the builds of the tests need: newer than what this machine may run
# as its own, so it is laid into a folder and never installed.
buildkit_programs() {
    local programs=.cache/buildkit
    local names=(docker.io containerd docker-buildx)
    if [[ -x $programs/dockerd && -x $programs/containerd && -x $programs/docker-buildx ]]; then return; fi
    has apt-get || die "BuildKit for the tests comes as the Debian packages ${names[*]}, and apt-get is missing"
    say "fetching BuildKit: the Debian packages ${names[*]}, unpacked into $programs"
    rm -rf "$programs".new
    mkdir -p "$programs".new/{deb,root}
    (cd "$programs".new && apt_download "${names[@]}") || die "the Debian packages ${names[*]} cannot be fetched"
    local package
    for package in "$programs".new/deb/*.deb; do dpkg -x "$package" "$programs".new/root; done
    # The rest of 300 MB is of no use here.
    find "$programs".new/root -type f \( -name dockerd -o -name containerd -o -name containerd-shim-runc-v2 \
        -o -name docker-buildx \) -perm -u+x -exec mv -t "$programs".new {} +
    rm -rf "$programs" "$programs".new/{deb,root,apt}
    mv "$programs".new "$programs"
}

# apt_download NAME...: fetches packages into deb/ of the folder it runs in, verified by apt itself.
apt_download() (
    # Images of machines come without lists.
    if ! apt_knows "$@" && [[ ! $(debian_mirror) ]] && ((EUID == 0)); then apt-get update -qq || exit; fi
    # This machine's own release, where it has them all; else the first release of Debian that has,
    # by the mirror that this machine uses, with lists apart from the machine's own.
    if ! apt_knows "$@"; then
        local mirror
        mirror=$(debian_mirror)
        [[ $mirror ]] || die "no release of Debian is among the sources of apt, or its lists are missing: apt-get update"
        mkdir -p apt/lists/partial apt/cache/archives/partial
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >apt/sources.list
        : >apt/status
        cat >apt/apt.conf <<CONF
Dir::State "$PWD/apt";
Dir::State::status "$PWD/apt/status";
Dir::Cache "$PWD/apt/cache";
Dir::Etc::sourcelist "$PWD/apt/sources.list";
Dir::Etc::sourceparts "-";
Acquire::Languages "none";
CONF
        export APT_CONFIG=$PWD/apt/apt.conf
        apt-get update -qq -o APT::Update::Error-Mode=any || exit
    fi
    cd deb
    # A folder of this user's own is no place for the account that apt downloads as.
    apt-get download -qq -o APT::Sandbox::User=root "$@"
)

apt_knows() {
    local name
    for name; do apt-cache show "$name" >/dev/null 2>&1 || return; done
}

debian_mirror() {
    apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' 'Label: Debian' | sort -u | head -n 1
}

case ${1:-all} in
    unit) python_libraries ;;
    all)
        # One a line: after "&&" a failure inside of a function would not end the script.
        debian_packages
        python_libraries
        npm_programs
        buildkit_programs
        ;;
    *) die "expected unit or all, got $1" ;;
esac
