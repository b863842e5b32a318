# `./dev demo` and `./dev screenshots`: the demo, for people and for the README's pictures.

cmd_demo() {
    local callsight
    need_rust
    cmd_tools nats-server prometheus
    callsight=$(debug_callsight)
    exec "$callsight" demo "$@"
}

# The pictures' typeface, unpacked beside chromium's libraries.
ensure_typeface() {
    local home=$tools/chromium/root
    [[ ! -d $home/usr/share/fonts/opentype/inter ]] || return 0
    scratch=$(mktemp -d "$tools/fetch.XXXXXX")
    (cd "$scratch" && run_quietly apt-get download fonts-inter) ||
        die "cannot fetch the typeface: check the network, run apt-get update as root and try again"
    dpkg-deb -x "$scratch"/fonts-inter_*.deb "$home"
    clean_up
}

picture() { # WHAT WORD FLAG…: of the page whose address the demo prints after WORD
    local what=$1 word=$2 log=$scratch/log demo url
    shift 2
    : >"$log"
    "$callsight" demo "$@" --duration 5m >"$log" &
    demo=$!
    # shellcheck disable=SC2064 # the demo that runs now
    trap "kill $demo 2>/dev/null || true; wait; clean_up" EXIT
    until url=$(sed -n "s/^$word *//p" "$log") && [[ -n $url ]]; do
        kill -0 "$demo" 2>/dev/null || die "the demo did not start"
        sleep 0.2
    done
    python3 docs/pictures/take.py "$(type -P chromium)" "$what" "$url" docs/pictures
    kill "$demo"
    wait "$demo"
}

cmd_screenshots() {
    local callsight
    need_rust
    cmd_tools nats-server prometheus chromium
    ensure_typeface
    callsight=$(debug_callsight)
    scratch=$(mktemp -d)
    picture triage Callsight --sessions 240 --seed 7 --scenario apac-rtt-spike --quiet-for 60s --bad-for 120s
    picture call Call --call
}
