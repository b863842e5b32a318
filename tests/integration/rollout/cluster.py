"""A stand-in for the API servers of a fleet, and for what they alone do.

Called as `helm` or `kubectl` it answers those calls that need a cluster, writes each down, and leaves everything else to
the real helm: charts are rendered by that. Called as `daemon` it is the kubelet: it runs the real callsight for each
exporter that the rendered manifests ask for, with the very arguments, configuration and secrets that they name.

    STATE/settings.json                      the programs
    STATE/secrets/CONTEXT/NAMESPACE/NAME/KEY what tests put into secrets
    STATE/faults.json                        what is to go wrong
    STATE/calls.jsonl                        every call
    STATE/releases/CONTEXT.RELEASE.json      what helm keeps in the cluster
    STATE/pods/CONTEXT.WORKLOAD.json         what runs
"""

import base64
import ctypes
import fcntl
import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import yaml

STATE = Path(os.environ["STAND_IN_STATE"])


def settings():
    return json.loads((STATE / "settings.json").read_text())


def faults():
    return load(STATE / "faults.json") or {}


@contextmanager
def locked():
    with open(STATE / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)


def bound():
    """Whatever happens to the process that started this one: it ends with that."""
    ctypes.CDLL("libc.so.6").prctl(1, signal.SIGKILL)


def fail(text):
    print(f"Error: {text}", file=sys.stderr)
    sys.exit(1)


# ---- arguments ----

SWITCHES = {"--install", "--wait", "--logs", "--no-hooks", "--ignore-not-found"}


def parse(arguments):
    """Words, flags with all their values, and the flags as they were."""
    words, flags = [], {}
    arguments = list(arguments)
    while arguments:
        argument = arguments.pop(0)
        if not argument.startswith("-"):
            words.append(argument)
        elif argument in SWITCHES:
            flags[argument] = [True]
        elif "=" in argument:
            name, value = argument.split("=", 1)
            flags.setdefault(name, []).append(value)
        else:
            flags.setdefault(argument, []).append(arguments.pop(0))
    return words, flags


def note(tool, words, context):
    with locked(), open(STATE / "calls.jsonl", "a") as calls:
        calls.write(json.dumps({"tool": tool, "words": words, "context": context}) + "\n")


def go_wrong(tool, words, context):
    """What the test wants to fail or hang: the first `left` matching calls after so many."""
    call = " ".join([tool, *words])
    with locked():
        wrong = faults()
        matching = [f for f in wrong.get("calls", []) if f["context"] == context and re.search(f["call"], call)]
        fault = next((f for f in matching if f["left"] > 0), None)
        if fault is None:
            return
        skipped = fault.get("after", 0) > 0
        fault["after" if skipped else "left"] -= 1
        write(STATE / "faults.json", wrong)
    if skipped:
        return
    if fault["do"] == "hang":
        time.sleep(600)
    fail("the test wants this to fail")


def load(path):
    """What a file says, unless it has gone meanwhile."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None


def pods(context):
    """What runs, by workload."""
    found = {path.stem.split(".", 1)[1]: load(path) for path in (STATE / "pods").glob(f"{context}.*.json")}
    return {name: pod for name, pod in found.items() if pod}


# ---- helm ----


def release_path(context, name):
    return STATE / "releases" / f"{context}.{name}.json"


def load_release(context, name):
    return load(release_path(context, name))


def rendered(arguments):
    """Objects, hooks, and the objects' text, as the real helm renders them."""
    helm = settings()["helm"]
    output = subprocess.run([helm, "template", *arguments], capture_output=True, text=True)
    if output.returncode != 0:
        fail(output.stderr.strip())
    objects, hooks, manifest = [], [], ""
    for text in re.split(r"^---\n", output.stdout, flags=re.MULTILINE):
        document = yaml.safe_load(text)
        if not document:
            continue
        if "helm.sh/hook" in document["metadata"].get("annotations", {}):
            hooks.append(document)
        else:
            objects.append(document)
            manifest += f"---\n{text}"
    return {"objects": objects, "hooks": hooks, "manifest": manifest}


def helm(arguments):
    words, flags = parse(arguments)
    context, verb = flags.get("--kube-context", [""])[0], words[0]
    note("helm", words, context)
    go_wrong("helm", words, context)
    if verb == "template":
        os.execv(settings()["helm"], ["helm", *arguments])
    if verb == "list":
        name = flags["--filter"][0].strip("^$")
        release = load_release(context, name)
        listed = [] if release is None else [{"name": name, "revision": str(release["revision"]), "status": release["status"]}]
        print(json.dumps(listed))
        return
    name = words[2] if verb == "get" else words[1]
    release = load_release(context, name)
    deadline = time.time() + float(flags.get("--timeout", ["300s"])[0].rstrip("s"))
    if verb == "upgrade":
        # Timeout, waiting and installing are nothing that rendering knows.
        passed = [words[1], words[2], "--namespace", flags["--namespace"][0]]
        for flag in ("--values", "--set", "--set-string", "--version"):
            for value in flags.get(flag, []):
                passed += [flag, value]
        revision = {**rendered(passed), "namespace": flags["--namespace"][0]}
        when = "pre-install" if release is None else "pre-upgrade"
        release = release or {"revision": 0, "history": {}, "restarts": {}}
        put(context, name, release, revision, "pending-upgrade")
        for hook in revision["hooks"]:
            if hook["kind"] == "Job" and when in hook["metadata"]["annotations"]["helm.sh/hook"].split(","):
                run_hook(context, hook["metadata"], hook["spec"]["template"]["spec"], release)
        finish(context, name, release, deadline)
    elif verb == "rollback":
        put(context, name, release, release["history"][words[2]], "pending-rollback")
        finish(context, name, release, deadline)
    elif verb == "uninstall":
        if release is not None:
            release_path(context, name).unlink()
        wait(lambda: not pods(context), deadline)
    elif verb == "get":
        print(release["history"][str(release["revision"])]["manifest"], end="")
    elif verb == "test":
        current = release["history"][str(release["revision"])]
        for hook in current["hooks"]:
            if hook["kind"] == "Pod" and "test" in hook["metadata"]["annotations"]["helm.sh/hook"]:
                run_hook(context, hook["metadata"], hook["spec"], release)
    else:
        fail(f"the stand-in knows no helm {verb}")


def put(context, name, release, revision, status):
    release["revision"] += 1
    release["status"] = status
    release["history"][str(release["revision"])] = revision
    write(release_path(context, name), release)


def finish(context, name, release, deadline):
    """As `--wait`: until everything runs and is ready."""

    def settled():
        wanted = workloads(context)
        there = pods(context)
        if set(there) != set(wanted):
            return False
        return all(there[name]["hash"] == wanted[name]["hash"] and ready(there[name]["port"]) for name in wanted)

    if not wait(settled, deadline):
        release["status"] = "failed"
        write(release_path(context, name), release)
        fail("timed out waiting for the condition")
    release["status"] = "deployed"
    write(release_path(context, name), release)


def wait(condition, deadline):
    while not condition():
        if time.time() > deadline:
            return False
        time.sleep(0.05)
    return True


def ready(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).status == 200
    except OSError:
        return False


def run_hook(context, metadata, pod, release):
    objects = release["history"][str(release["revision"])]["objects"]
    folder = STATE / "mounts" / f"{context}.{metadata['name']}.{os.getpid()}"
    arguments = mounted(context, metadata["namespace"], pod, objects, folder)
    command = [settings()["callsight"], *arguments]
    output = subprocess.run(command, capture_output=True, text=True)
    if output.returncode != 0:
        fail(f"job {metadata['name']}: {output.stdout} {output.stderr}")


# ---- pods ----


def mounted(context, namespace, pod, objects, folder):
    """The container's arguments, with its volumes as folders here."""
    container = pod["containers"][0]
    paths = {}
    for mount in container.get("volumeMounts", []):
        volume = next(volume for volume in pod["volumes"] if volume["name"] == mount["name"])
        at = folder / mount["name"]
        at.mkdir(parents=True, exist_ok=True)
        paths[mount["mountPath"]] = str(at)
        if "configMap" in volume:
            named = volume["configMap"]["name"]
            found = next(o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"] == named)
            for key, text in found["data"].items():
                (at / key).write_text(text)
        for source in volume.get("projected", {}).get("sources", []):
            secret = STATE / "secrets" / context / namespace / source["secret"]["name"]
            for item in source["secret"]["items"]:
                (at / item["path"]).write_bytes((secret / item["key"]).read_bytes())

    def here(text):
        for path, at in paths.items():
            text = text.replace(path, at)
        return text

    for path in folder.rglob("*.toml"):
        path.write_text(here(path.read_text()))
    return [here(argument) for argument in container["args"]]


def workloads(context):
    """The exporters that a context's releases ask for."""
    wanted = {}
    for path in (STATE / "releases").glob(f"{context}.*.json"):
        release = load(path)
        if release is None:
            continue
        current = release["history"][str(release["revision"])]
        for document in current["objects"]:
            if document["kind"] not in ("Deployment", "StatefulSet"):
                continue
            name = document["metadata"]["name"]
            restarts = release["restarts"].get(name, 0)
            template = json.dumps([document["spec"]["template"], restarts], sort_keys=True)
            wanted[name] = {
                "hash": hashlib.sha256(template.encode()).hexdigest(),
                "document": document,
                "objects": current["objects"],
                "namespace": current["namespace"],
            }
    return wanted


def daemon():
    running = {}

    def stop(key):
        running.pop(key)["process"].terminate()
        (STATE / "pods" / f"{key}.json").unlink(missing_ok=True)

    dying = []
    while True:
        wanted = {}
        for context in settings()["contexts"]:
            for name, workload in workloads(context).items():
                wanted[f"{context}.{name}"] = (context, workload)
        for key in [key for key in running if key not in wanted or wanted[key][1]["hash"] != running[key]["hash"]]:
            dying.append(running[key]["process"])
            stop(key)
        dying = [process for process in dying if process.poll() is None]
        for key, (context, workload) in wanted.items():
            # Recreate: the old pod of a colour is gone before the new one comes.
            if key in running or any(process.key == key for process in dying):
                continue
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = probe.getsockname()[1]
            pod = workload["document"]["spec"]["template"]["spec"]
            folder = STATE / "mounts" / f"{key}.{time.time_ns()}"
            arguments = mounted(context, workload["namespace"], pod, workload["objects"], folder)
            elsewhere = faults().get("elsewhere", {}).get(key)
            if elsewhere:
                arguments += ["--nats-url", elsewhere, "--create"]
            log = open(STATE / f"{key}.log", "a")
            process = subprocess.Popen(
                [settings()["callsight"], *arguments, "--listen", f"127.0.0.1:{port}"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=bound,
            )
            process.key = key
            running[key] = {"process": process, "hash": workload["hash"], "port": port}
            write(STATE / "pods" / f"{key}.json", {"hash": workload["hash"], "port": port})
        time.sleep(0.05)


# ---- kubectl ----


def kubectl(arguments):
    words, flags = parse(arguments)
    context, verb = flags["--context"][0], words[0]
    note("kubectl", words, context)
    go_wrong("kubectl", words, context)
    objects = [o for path in (STATE / "releases").glob(f"{context}.*.json") for o in current_objects(path)]
    if verb == "get" and words[1] == "service":
        print(service(objects, words[2])["spec"]["selector"]["colour"], end="")
    elif verb == "get" and words[1] == "secret":
        key = re.fullmatch(r"jsonpath=\{\.data\.(.*)\}", flags["--output"][0])[1].replace("\\.", ".")
        path = STATE / "secrets" / context / flags["--namespace"][0] / words[2] / key
        print(base64.b64encode(path.read_bytes()).decode(), end="")
    elif verb == "get":
        colour = re.search("colour=([a-z]+)", flags["--selector"][0])[1]
        for o in objects:
            if o["kind"] in ("Deployment", "StatefulSet") and o["metadata"]["labels"]["colour"] == colour:
                image = o["spec"]["template"]["spec"]["containers"][0]["image"]
                print(f"{o['kind'].lower()}.apps/{o['metadata']['name']}" if flags["--output"][0] == "name" else image)
    elif verb == "rollout":
        name = words[2].split("/")[1]
        path = next(p for p in (STATE / "releases").glob(f"{context}.*.json") if any(
            o["metadata"]["name"] == name and o["kind"] in ("Deployment", "StatefulSet") for o in current_objects(p)))
        if words[1] == "restart":
            release = json.loads(path.read_text())
            release["restarts"][name] = release["restarts"].get(name, 0) + 1
            write(path, release)
        else:
            seconds = float(flags.get("--timeout", ["60s"])[0].rstrip("s"))

            def restarted():
                wanted = workloads(context)[name]["hash"]
                there = pods(context).get(name)
                return there and there["hash"] == wanted and ready(there["port"])

            if not wait(restarted, time.time() + seconds):
                fail("timed out waiting for the condition")
    elif verb == "port-forward":
        name = words[1].split("/")[1]
        colour = service(objects, name)["spec"]["selector"]["colour"]
        ports = [pod["port"] for workload, pod in pods(context).items() if workload.endswith(f"-{colour}")]
        if not ports:
            fail(f"no pod of service {name} is running")
        print(f"Forwarding from 127.0.0.1:{ports[0]} -> 9464", flush=True)
        signal.pause()
    else:
        fail(f"the stand-in knows no kubectl {verb}")


def current_objects(path):
    release = json.loads(path.read_text())
    return release["history"][str(release["revision"])]["objects"]


def service(objects, name):
    found = [o for o in objects if o["kind"] == "Service" and o["metadata"]["name"] == name]
    return found[0] if found else fail(f'services "{name}" not found')


if __name__ == "__main__":
    role, *rest = sys.argv[1:]
    bound()
    {"helm": helm, "kubectl": kubectl, "daemon": lambda _: daemon()}[role](rest)
