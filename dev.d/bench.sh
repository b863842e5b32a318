# `./dev bench`, `./dev profile` and `./dev instructions`: what the product costs.

# How much of the recorded number of instructions is allowed, in percent.
INSTRUCTIONS_ALLOWED=120

cmd_bench() {
    need_rust
    if [[ ${1:-} == --compare ]]; then
        compare "${@:2}"
    elif [[ ${1:-} == web ]]; then
        bench_web "${@:2}"
    else
        cmd_tools nats-server
        cargo bench --locked "$@"
    fi
}

bench_web() { # [ROUNDS [SECONDS]]
    cmd_web
    cmd_tools chromium
    node clients/web/bench/cost.mjs "$(type -P chromium)" "$@"
}

built() { # BENCH FLAG…: builds a benchmark and prints the path of its program
    local log
    log=$(cargo bench --locked --no-run --bench "$1" "${@:2}" 2>&1) || {
        tail -n 20 <<<"$log" >&2
        return 1
    }
    sed -n 's/.*Executable .*(\(.*\))$/\1/p' <<<"$log"
}

compare() { # REF [--rounds N] [BENCH…]
    local ref=${1:-} rounds=9 names=() name old new pairs=() tree=$root/target/compare
    shift || true
    while (($#)); do
        case $1 in
            --rounds) rounds=${2:-} && shift 2 ;;
            *) names+=("$1") && shift ;;
        esac
    done
    ((${#names[@]})) || names=(decode fold)
    [[ $rounds =~ ^[1-9][0-9]*$ ]] || die "--rounds needs a whole number; see ./dev help"
    ref=$(git rev-parse --verify --quiet "$ref^{commit}") || die "name what to compare with: a commit, a branch or a tag"
    cmd_tools nats-server
    git worktree remove --force "$tree" 2>/dev/null || true
    git worktree add --quiet --detach --force "$tree" "$ref"
    mkdir -p target/compared
    for name in "${names[@]}"; do
        say "building $name of $(git rev-parse --short "$ref") and of this tree"
        # Both use one target folder, so that the dependencies are built once.
        old=$(cd "$tree" && CARGO_TARGET_DIR=$root/target built "$name") || die "that commit has no such benchmark, or does not build"
        cp "$old" "target/compared/$name-old"
        new=$(built "$name") || die "$name does not build"
        cp "$new" "target/compared/$name-new"
        pairs+=("$name=$root/target/compared/$name-old:$root/target/compared/$name-new")
    done
    git worktree remove --force "$tree"
    python3 benches/compare.py "$rounds" "${pairs[@]}"
}

cmd_profile() {
    need_rust
    cmd_tools nats-server
    type -P perf >/dev/null || die "perf is not on PATH: it comes with the kernel's tools (Debian: linux-perf)"
    cargo build --release --locked --bin callsight
    python3 benches/programs/profile.py "${CARGO_TARGET_DIR:-target}/release/callsight" "$@"
}

cmd_instructions() {
    local counts=benches/instructions.txt program work count before machine failed=0 update=
    case ${1:-} in
        --update) update=1 ;;
        '') ;;
        *) die "instructions has no option $1; see ./dev help" ;;
    esac
    need_rust
    cmd_tools valgrind
    machine=$(uname -m)
    # In the profile of the tests, which is built already and shows the growth of an algorithm just as well.
    program=$(built instructions --profile dev) || die "the benchmark does not build"
    scratch=$(mktemp -d)
    for work in decode_compact decode_named decode_full decode_packet fold fold_full join_and_leave render; do
        valgrind --tool=callgrind --collect-atstart=no --toggle-collect="*counted_$work*" \
            --callgrind-out-file="$scratch/out" "$program" "$work" >"$scratch/log" 2>&1 || {
            tail -n 20 "$scratch/log" >&2
            die "valgrind failed"
        }
        count=$(sed -n 's/.*Collected : //p' "$scratch/log")
        ((count > 0)) || die "no instruction of $work was counted: was its function renamed?"
        echo "$machine $work $count" >>"$scratch/counts"
        before=$(awk -v machine="$machine" -v work="$work" '$1 == machine && $2 == work { print $3 }' "$counts" 2>/dev/null) || true
        printf '%-16s %12d instructions' "$work" "$count"
        if [[ -z $before ]]; then
            echo ", not recorded for $machine"
        else
            printf ', %3d %% of the recorded number\n' $((count * 100 / before))
            if ((count * 100 > before * INSTRUCTIONS_ALLOWED)); then failed=1; fi
        fi
    done
    if [[ -n $update ]]; then
        { grep -v "^$machine " "$counts" 2>/dev/null || true; cat "$scratch/counts"; } >"$scratch/new"
        cp "$scratch/new" "$counts"
    elif ((failed)); then
        die "over $INSTRUCTIONS_ALLOWED %: make it cheaper, or state the reason and run ./dev instructions --update"
    fi
}
