# What ops/up and ops/test have in common. Sourced by bash, never run.
# shellcheck shell=bash

# Says why and ends.
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# install_packages PROGRAM=PACKAGE...
# Installs the Debian packages whose programs are missing. Their own services are neither started now nor
# enabled for the next boot: a cluster of ours brings its own Redis and HAProxy, on its own ports.
install_packages() {
    local pair program packages=()
    for pair in "$@"; do
        program=${pair%%=*}
        PATH="$PATH:/usr/sbin:/usr/local/sbin" command -v "$program" >/dev/null || packages+=("${pair#*=}")
    done
    ((${#packages[@]})) || return 0

    command -v apt-get >/dev/null || fail "install these yourself (there is no apt-get here): ${packages[*]}"
    local as_root=()
    if ((EUID != 0)); then
        command -v sudo >/dev/null || fail "install these as root: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    printf 'installing %s\n' "${packages[*]}" >&2

    # Debian asks this file before it starts a service; 101 is "no".
    local policy=/usr/sbin/policy-rc.d own_policy=false log status=0
    log=$(mktemp)
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod 755 "$policy"
        own_policy=true
    fi
    {
        "${as_root[@]}" apt-get update -qq &&
            "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
                apt-get install -qq -y --no-install-recommends "${packages[@]}"
    } >"$log" 2>&1 || status=$?
    if $own_policy; then
        "${as_root[@]}" rm -f "$policy"
    fi
    if ((status)); then
        cat "$log" >&2
        rm -f "$log"
        fail "apt-get could not install ${packages[*]}"
    fi
    rm -f "$log"
    if [[ -d /run/systemd/system ]]; then
        "${as_root[@]}" systemctl disable --quiet "${packages[@]}" 2>/dev/null || true
    fi
}

# Finds cargo where rustup puts it, also in a shell that has not read its profile; and installs what rustup does not bring: a
# linker, and a compiler for what libraries have in C.
need_rust() {
    command -v cargo >/dev/null || PATH="$HOME/.cargo/bin:$PATH"
    command -v cargo >/dev/null || fail "Rust is missing: install it from https://rustup.rs"
    install_packages cc=build-essential
}

# target_dir ROOT: where cargo puts what it builds.
target_dir() {
    local dir=${CARGO_TARGET_DIR:-target}
    [[ $dir == /* ]] || dir=$1/$dir
    printf '%s\n' "$dir"
}

# profile_dir PROFILE: the folder of a profile below the target folder.
profile_dir() {
    if [[ $1 == dev ]]; then echo debug; else echo "$1"; fi
}
