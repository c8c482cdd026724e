"""Submits job files of others with azure-ai-ml and says what became of each: FILE<tab>OUTCOME<tab>REASON.

Arguments: resource group, workspace, VNET/SUBNET, folder of the files, seconds that all may take together, files.
Every job is sent to the one cluster there is, and gets a name of its own. Where a file names something beside itself
that is not there (most often the folder with the code), the folder gets a stand-in that says so: the job is read, sent
and run all the same, and fails where it needs what is missing.
"""
import logging
import os
import re
import sys
import time

import yaml
from azure.ai.ml import MLClient, load_job
from azure.ai.ml.entities import AmlCompute, NetworkSettings
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

GROUP, WORKSPACE, SUBNET, FOLDER, LIMIT = sys.argv[1:5] + [float(sys.argv[5])]
CLUSTER = "jobs"
ENDED = {"Completed", "Failed", "Canceled"}
STAND_IN = "stand-in.txt"
# Members that name something beside the file, and whether it is a folder.
BESIDE = {"code": True, "path": True, "local_path": True, "conda_file": False, "component": False}

# Warnings about fields that the client does not know are no outcome.
logging.disable(logging.CRITICAL)
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], GROUP, WORKSPACE)
client.compute.begin_create_or_update(
    AmlCompute(
        name=CLUSTER,
        size="STANDARD_DS3_V2",
        max_instances=2,
        idle_time_before_scale_down=60,
        network_settings=NetworkSettings(vnet_name=SUBNET.split("/")[0], subnet=SUBNET.split("/")[1]),
    )
).result()


def one_line(text):
    """What it says, without what differs from run to run."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(text)).replace(FOLDER.rstrip("/") + "/", "")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32,}", "...", text)
    # The client sets its details apart from its advice by signs and blank lines.
    details = re.findall(r"^(?:\(x\)|\d+\)|x) (.*)", text, re.MULTILINE)
    lines = details or [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(" ".join(lines[:1] if not details else details).split()).replace("|", "/")[:240]


def refusal(error):
    """Why the client did not take a file."""
    text = str(error).encode().decode("unicode_escape", "replace")
    # Its validation says at length what each member might have been; which members they are is enough.
    members = re.findall(r'^  "(\w+)": ', text.partition("JobSchema failed:")[2], re.MULTILINE)
    why = f"its schema refuses {', '.join(sorted(set(members)))}" if members else one_line(error)
    return "client", f"{type(error).__name__}: {why}"


def furnish(file):
    """Stand-ins for what is named in `file`, or in a component that it names, and is not there."""
    with open(file, encoding="utf-8") as text:
        tree = yaml.safe_load(text)
    pending = [tree]
    while pending:
        node = pending.pop()
        children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for name, value in children:
            if name in BESIDE and isinstance(value, str):
                stand_in(file, name, value)
            pending.append(value)


def stand_in(file, name, value):
    value = value.removeprefix("file:")
    if re.match(r"[a-z0-9+]+:|/|\$\{\{|git@", value):
        return
    path = os.path.normpath(os.path.join(os.path.dirname(file), value))
    if os.path.exists(path):
        if name == "component":
            furnish(path)
        return
    if not BESIDE[name] and name == "component":
        return
    if BESIDE[name] and not os.path.splitext(path)[1]:
        path = os.path.join(path, STAND_IN)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as made:
        made.write("dependencies: []\n" if name == "conda_file" else "This was not among the shared files.\n")


def submit(file):
    """Outcome and reason of what was not accepted, or the name of the job."""
    path = os.path.join(FOLDER, file)
    try:
        furnish(path)
        job = load_job(path)
    except Exception as error:  # whatever the client refuses itself
        return refusal(error), None
    job.name = None
    for one in [job, *getattr(job, "jobs", {}).values()]:
        if hasattr(one, "compute"):
            one.compute = CLUSTER
    if hasattr(job, "settings"):
        job.settings.default_compute = CLUSTER
    try:
        return None, client.jobs.create_or_update(job).name
    except HttpResponseError as error:
        inner = getattr(error, "error", None)
        code = inner.code if inner is not None and inner.code else str(error.status_code)
        message = inner.message if inner is not None and inner.message else error.message
        return (code, one_line(message)), None
    except Exception as error:
        return refusal(error), None


def reason(name):
    """Why it failed, as the run history says it."""
    details = client.jobs._runs_operations.get_run_details(name).as_dict()
    error = (details.get("error") or {}).get("error") or {}
    inner = error.get("innerError") or error.get("inner_error") or {}
    return f"{inner.get('code', '')}: {one_line(error.get('message', ''))}".removeprefix(": ")


def tell(file, outcome, why):
    print(f"{file}\t{outcome}\t{why}", flush=True)


def main():
    until = time.monotonic() + LIMIT
    waiting = {}
    for file in sys.argv[6:]:
        refused, name = submit(file)
        if refused:
            tell(file, *refused)
        else:
            waiting[name] = file
    while waiting and time.monotonic() < until:
        for name, file in list(waiting.items()):
            status = client.jobs.get(name).status.value
            if status in ENDED:
                tell(file, status, reason(name) if status == "Failed" else "")
                del waiting[name]
        time.sleep(1)
    for name, file in waiting.items():
        tell(file, "unfinished", f"it was {client.jobs.get(name).status} when the time was over")


main()
