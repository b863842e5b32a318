# `./dev test`, `./dev chaos`, `./dev soak` and `./dev fuzz`.

# The usual soft limit of open files. Tests run under it, so that they never depend on a generous machine.
OPEN_FILES=1024

stages=()

stage() { # NAME COMMAND…: its result and time go to the closing table
    local name=$1 started=$SECONDS outcome=ok
    shift
    printf '\n== %s\n' "$name"
    "$@" || outcome=FAILED
    stages+=("$(printf '%-34s %7s %13d s' "$name" "$outcome" $((SECONDS - started)))")
    [[ $outcome == ok ]]
}

# Rows and sums from the output of `cargo test`. A test program that ended without a result counts as one failure.
read_results() { # LOG
    sed 's/\x1b\[[0-9;]*m//g' "$1" | awk '
        function begin(program) { end(); name = program; waiting = 1 }
        function end() { if (waiting) { row("-", "CRASHED", "-"); failed++; waiting = 0 } }
        function row(p, f, i) { printf "row %-34s %7s %7s %8s\n", name, p, f, i }
        $1 == "Running" && match($0, /deps\/.*-[0-9a-f]+\)$/) {
            program = substr($0, RSTART + 5, RLENGTH - 6)
            sub(/-[0-9a-f]+$/, "", program)
            begin(program ($2 == "unittests" ? " (" $3 ")" : ""))
        }
        $1 == "Doc-tests" { begin("documentation of " $2) }
        /^test result: / {
            if ($4 + $6 + $8) row($4, $6, $8)
            passed += $4; failed += $6; waiting = 0
        }
        END { end(); print "sum", passed + 0, failed + 0 }'
}

run_cargo_test() { # LOG ARG…
    local log=$1
    shift
    # A hard limit below OPEN_FILES stays in force.
    ulimit -Sn "$OPEN_FILES" 2>/dev/null || true
    # Most tests wait for servers most of the time.
    RUST_TEST_THREADS=${RUST_TEST_THREADS:-5} cargo test --locked --no-fail-fast "$@" 2>&1 | tee --append "$log"
}

test_web() {
    local outcome=0
    stage web "$root/dev" web test || outcome=1
    web_results >>"$scratch/log"
    return "$outcome"
}

report_tests() { # LOG BROKEN: prints the closing table; BROKEN is how many stages failed
    local results passed failed broken=$2
    results=$(read_results "$1")
    read -r _ passed failed < <(grep '^sum ' <<<"$results")
    printf '\n%-34s %7s %7s %8s\n' 'test program' passed failed ignored
    sed -n 's/^row //p' <<<"$results"
    printf '%-34s %7s %15s\n' stage result time
    printf '%s\n' "${stages[@]}"

    # The last line must not look like success if something other than a test failed.
    if ((failed == 0 && broken > 0)); then failed=$broken; fi
    if ((failed == 0 && passed == 0)); then
        echo 'no test matches: check the arguments'
        failed=1
    fi
    echo "$passed passed, $failed failed"
    ((failed == 0))
}

cmd_test() {
    need_rust
    local broken=0
    scratch=$(mktemp -d)
    touch "$scratch/log"
    if [[ $* == web ]]; then
        test_web || broken=1
    elif (($#)); then
        case $1 in
            -*) ;;
            *) set -- --workspace --config "target.'cfg(all())'.runner=['$root/dev.d/run-test']" -- "$@" ;;
        esac
        stage 'cargo test' run_cargo_test "$scratch/log" "$@" || broken=1
    # Each of these stages is a process of its own: bash would ignore errors inside a function that is tested.
    elif stage tools "$root/dev" tools; then
        stage lint "$root/dev" lint || broken=$((broken + 1))
        test_web || broken=$((broken + 1))
        stage instructions "$root/dev" instructions || broken=$((broken + 1))
        stage 'cargo test' run_cargo_test "$scratch/log" --workspace || broken=$((broken + 1))
    else
        broken=1
    fi
    report_tests "$scratch/log" "$broken"
}

cmd_chaos() {
    local minutes=1 servers=one
    unset CALLSIGHT_CHAOS_SECONDS CALLSIGHT_CHAOS_SEED
    while (($#)); do
        [[ ${2:-} =~ ^[0-9]+$ ]] || die "$1 needs a whole number; see ./dev help"
        case $1 in
            --minutes) minutes=$2 ;;
            --seed) export CALLSIGHT_CHAOS_SEED=$2 ;;
            --servers)
                case $2 in
                    1) servers=one ;;
                    3) servers=three ;;
                    *) die "chaos has one server, or three in each region: --servers 1 or --servers 3" ;;
                esac
                ;;
            *) die "chaos has no option $1; see ./dev help" ;;
        esac
        shift 2
    done
    export CALLSIGHT_CHAOS_SECONDS=$((minutes * 60))
    need_rust
    ulimit -Sn "$OPEN_FILES" 2>/dev/null || true
    cargo test --locked --test chaos -- "on_${servers}_" --nocapture
}

cmd_soak() {
    local hours=1
    while (($#)); do
        [[ $1 == --hours ]] || die "soak has no option $1; see ./dev help"
        hours=${2:-}
        [[ $hours =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "--hours needs a number, such as 1 or 0.02"
        shift 2
    done
    CALLSIGHT_SOAK_SECONDS=$(awk -v hours="$hours" 'BEGIN { print 3600 * hours }')
    export CALLSIGHT_SOAK_SECONDS
    awk -v seconds="$CALLSIGHT_SOAK_SECONDS" 'BEGIN { exit seconds < 20 }' || die "a soak takes 20 seconds or more: --hours 0.01"
    need_rust
    ulimit -Sn "$OPEN_FILES" 2>/dev/null || true
    cargo test --locked --test soak -- after_many_lives --nocapture || die "the soak failed: the reason is above"
}

cmd_fuzz() { # TARGET ARG…
    need_rust
    local target=${1:-} targets
    targets=$(cd fuzz/corpus && echo *)
    [[ -n $target && -f fuzz/fuzz_targets/$target.rs ]] || die "name a target: $targets"
    shift
    if [[ ${1:-} == --inputs ]]; then
        [[ ${2:-} =~ ^[1-9][0-9]*$ ]] || die "--inputs needs a whole number; see ./dev help"
        # The tests say what a target is for, not what it is called.
        CALLSIGHT_FUZZ_INPUTS=$2 CALLSIGHT_FUZZ_TARGET=$target cargo test --locked --test fuzz -- --nocapture ||
            die "the input that fails is above"
        return
    fi
    cargo +nightly --version >/dev/null 2>&1 || die "libFuzzer needs nightly Rust: rustup toolchain install nightly"
    ensure cargo-fuzz
    # An input that takes 5 seconds, 2 GiB or one allocation of 4 MiB is as bad as a panic.
    cargo +nightly fuzz run --target-dir target/fuzz "$target" -- \
        -max_len=66000 -timeout=5 -rss_limit_mb=2048 -malloc_limit_mb=4 "$@"
}
