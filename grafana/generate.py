#!/usr/bin/env python3
"""Writes the dashboards: `python3 grafana/generate.py`. `--check` only says whether they are up to date.

Dashboards written by hand repeat variables, links, units and thresholds, which drift apart with the first edit.
So shared parts are declared once, in `parts.py` and `queries.py`, and each dashboard has a file of its own. The JSON
is committed, so importing it needs no Python; a test fails when it is stale.
"""

import json
import pathlib
import sys

sys.dont_write_bytecode = True  # the tests run this and must leave no files behind

import cause, neteq, participation, pipeline, rtt, session  # noqa: E401, E402

FOLDER = pathlib.Path(__file__).parent / "dashboards"


def main():
    models = [page.make().model() for page in (rtt, neteq, cause, participation, pipeline, session)]
    check = sys.argv[1:] == ["--check"]
    wanted = {page["uid"] + ".json": json.dumps(page, indent=2, ensure_ascii=False) + "\n" for page in models}
    found = {file.name: file.read_text(encoding="utf-8") for file in FOLDER.glob("*.json")}
    if check:
        stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        if stale:
            sys.exit(f"stale: {', '.join(stale)}; run python3 grafana/generate.py")
        return
    for name in found.keys() - wanted.keys():
        (FOLDER / name).unlink()
    for name, text in wanted.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
