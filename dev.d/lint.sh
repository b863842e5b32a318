# `./dev lint` and `./dev deny`: everything that is checked without running the product.

COMMENT_COLUMNS=100
WASM=wasm32-unknown-unknown
lint_failures=()

check() { # WHAT COMMAND…: prints the result and time; a failure is remembered, and the next check runs
    local what=$1 started=$SECONDS outcome=ok
    shift
    "$@" || {
        outcome=FAILED
        lint_failures+=("$what")
    }
    printf 'lint: %-12s %-7s %3d s\n' "$what" "$outcome" $((SECONDS - started))
}

files_named() { # PATTERN…: outside of build output and version control
    local names=() pattern
    for pattern in "$@"; do names+=(-o -name "$pattern"); done
    find . \( -name target -o -name .git -o -name node_modules \) -prune -o -type f \( "${names[@]:1}" \) -print
}

check_comments() {
    local long
    long=$(files_named '*.rs' | LC_ALL=C.UTF-8 xargs grep -nE "^.{$((COMMENT_COLUMNS + 1)),}\$" | grep -E '^[^:]+:[0-9]+: *//') || true
    [[ -z $long ]] || {
        say "comments longer than $COMMENT_COLUMNS columns:"
        cut -c -160 <<<"$long" >&2
        return 1
    }
}

check_rustdoc() { RUSTDOCFLAGS='-D warnings' cargo doc --quiet --workspace --no-deps --locked; }

# The standard library for WebAssembly, of the toolchain in use.
ensure_wasm() {
    [[ ! -d $(rustc --print sysroot)/lib/rustlib/$WASM/lib ]] || return 0
    say "adding the compilation target $WASM with rustup"
    need rustup "it adds Rust's compilation targets: install it from https://rustup.rs, or install Rust's $WASM target otherwise"
    rustup --quiet target add "$WASM" || die "cannot add the target: check the network and run rustup target add $WASM"
}

# Frames are read in browsers, and the fold is free of I/O.
check_borders() {
    local banned
    (ensure_wasm) || return
    cargo check --quiet --locked --package callsight-frame --lib --target "$WASM" || return
    banned=$(cargo tree --quiet --locked --package callsight-fold --edges normal --prefix none | grep -E '^(tokio|async-nats) ') || true
    [[ -z $banned ]] || {
        say "callsight-fold must not depend on: $banned"
        return 1
    }
}

check_packages() { # without building them: the tests did that
    cargo package --quiet --workspace --no-verify --allow-dirty --locked
}

check_shell() {
    local script
    while read -r script; do
        bash -n "$script" || return
    done < <(printf '%s\n' dev dev.d/run-test .ci/run .github/scripts/* && files_named '*.sh')
}

check_yaml() {
    local files
    mapfile -t files < <(files_named '*.yml' '*.yaml')
    "$(program python)" -m yamllint --strict "${files[@]}"
}

check_workflows() { # without the linters that actionlint would find on some machines only
    "$tools/python/bin/actionlint" -no-color -shellcheck= -pyflakes= .github/workflows/*.yml
}

check_dependencies() { # prints findings only; needs the crates of other platforms too
    cargo fetch --quiet --locked
    cargo-deny --log-level error --offline --locked check --hide-inclusion-graph licenses bans sources >/dev/null
}

cmd_lint() {
    need_rust
    cmd_tools python cargo-deny
    check formatting cargo fmt --all --check
    check comments check_comments
    check clippy cargo clippy --quiet --workspace --all-targets --locked -- -D warnings
    check rustdoc check_rustdoc
    check borders check_borders
    check packages check_packages
    check shell check_shell
    check yaml check_yaml
    check workflows check_workflows
    check dependencies check_dependencies
    ((${#lint_failures[@]} == 0)) || die "lint failed: ${lint_failures[*]}"
}

cmd_deny() { # WHAT…
    need_rust
    cmd_tools cargo-deny
    if (($#)); then
        cargo-deny --locked check "$@"
    else
        cargo-deny --offline --locked check licenses bans sources
    fi
}
