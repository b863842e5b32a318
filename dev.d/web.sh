# `./dev web`: the browser client in clients/web.

# The built module that the program has in it, for the page of `callsight demo --call`: without the
# name of a source map, which it does not have.
EMBEDDED=src/cli/demo/call/callsight.js

# What vitest has counted, for the closing table of `./dev test`.
WEB_RESULTS=target/web.json

cmd_web() { # [test]
    local home=clients/web
    case ${1:-} in
        '' | test) ;;
        *) die "web has no option $1; see ./dev help" ;;
    esac
    cmd_tools web
    # Packages of one's own are kept.
    [[ -d $home/node_modules && ! -L $home/node_modules ]] || ln -sfn "$tools/web/node_modules" "$home/node_modules"
    if [[ -z ${1:-} ]]; then
        (cd "$home" && npm run --silent build)
        # Only if it differs: a file that is newer is compiled again.
        without_source_map | cmp --silent - "$EMBEDDED" || without_source_map >"$EMBEDDED"
        return
    fi
    rm -f "$WEB_RESULTS"
    (
        cd "$home"
        npm run --silent lint
        npm run --silent types
        npm run --silent build
        npm run --silent test -- --reporter=default --reporter=json --outputFile.json="$root/$WEB_RESULTS"
    )
}

without_source_map() { grep -v '^//# sourceMappingURL=' clients/web/dist/callsight.js; }

web_results() { # in the words of `cargo test`; a run that ended early has none
    echo '     Running clients/web (target/deps/callsight_web-0)'
    [[ ! -f $WEB_RESULTS ]] || python3 - "$WEB_RESULTS" <<'COUNT'
import json, sys
counted = json.load(open(sys.argv[1], encoding="utf-8"))
passed, failed, ignored = (counted[f"num{kind}Tests"] for kind in ("Passed", "Failed", "Pending"))
print(f"test result: vitest. {passed} passed; {failed} failed; {ignored} ignored")
COUNT
}
