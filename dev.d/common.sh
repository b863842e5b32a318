# Helpers of every command.

# Removed at the end, however it comes; empty if there is nothing to remove.
scratch=

clean_up() { [[ -z $scratch ]] || rm -rf "$scratch"; }
trap clean_up EXIT

say() { printf 'dev: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

need() { # COMMAND HINT
    command -v "$1" >/dev/null || die "$1 is missing: $2"
}

need_rust() { need cargo "install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml) or later, with rustup"; }

run_quietly() { # COMMAND…: shows the end of its output only if it fails
    local log=$scratch/log
    "$@" >"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        return 1
    }
}

debug_callsight() { # builds the program of the `dev` profile and prints its path
    cargo build --locked --bin callsight
    echo "${CARGO_TARGET_DIR:-target}/debug/callsight"
}
