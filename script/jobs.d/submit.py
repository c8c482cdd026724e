"""Submits job files of others with azure-ai-ml, lets them run, and says what became of each: one JSON object a line.

Arguments: resource group, workspace, folder of the files (written to), subnet, seconds for all of it, files in the folder.
What a file takes for granted and is not among the files is made, and named as a stand-in of the file (docs/jobs.md).
"""
import json
import logging
import os
import re
import sys
import time

import yaml
from azure.ai.ml import MLClient, load_component, load_job
from azure.ai.ml.entities import AmlCompute, Data, NetworkSettings
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobClient

GROUP, WORKSPACE, FOLDER, SUBNET, SECONDS = sys.argv[1:6]
FILES = sys.argv[6:]
# Of a job that names no compute, as `az ml job create --set compute=` would do.
CLUSTER = "cpu-cluster"
ENDED = {"Completed", "Failed", "Canceled"}
TEXT = "Stands for something that is not among the shared files.\n"
FOLDER_TEXT = "The folder this is in s" + TEXT[1:]
CONDA_TEXT = "dependencies: []\n"

# Warnings about fields that the client does not know are no outcome.
logging.disable(logging.CRITICAL)
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], GROUP, WORKSPACE)


class StandIns:
    """Makes what files name and is not there, each thing once."""

    def __init__(self):
        self.files, self.clusters, self.data, self.components = set(), set(), set(), set()

    def of(self, path):
        """Those of one file, of the components that it names too, in the order of their being named."""
        job = yaml.safe_load(read(path))
        named = dict.fromkeys(self.part(os.path.dirname(path), job))
        self.cluster((job.get("settings") or {}).get("default_compute"))
        return list(named)

    def part(self, here, part):
        """Of a job, a component, or a step of a pipeline."""
        if not isinstance(part, dict):
            return
        self.cluster(part.get("compute"))
        code, environment = part.get("code"), part.get("environment")
        yield from self.beside(here, code.get("local_path") if isinstance(code, dict) else code, FOLDER_TEXT)
        if isinstance(environment, dict):
            yield from self.beside(here, environment.get("conda_file"), CONDA_TEXT)
            yield from self.beside(here, (environment.get("build") or {}).get("path"), FOLDER_TEXT)
        for given in members(part, "inputs"):
            if isinstance(given, dict):
                yield from self.input(here, given.get("path"), given.get("type", "uri_folder"))
        component = part.get("component")
        if isinstance(component, str):
            yield from self.component(here, component)
        for inner in [component, part.get("trial"), *members(part, "jobs")]:
            yield from self.part(here, inner)

    def component(self, here, name):
        """What a component in a file of its own names; one that is registered first is made of the file beside the job."""
        path = os.path.join(here, name.removeprefix("file:"))
        if os.path.exists(path):
            yield from self.of(path)
        registered = re.fullmatch(r"azureml:([\w-]+)@latest", name)
        for path in sorted(os.listdir(here)) if registered else ():
            path = os.path.join(here, path)
            if not path.endswith(".yml") or not re.search("^name: %s$" % registered[1], read(path), re.MULTILINE):
                continue
            yield from self.of(path)
            if registered[1] not in self.components:
                self.components.add(registered[1])
                client.components.create_or_update(load_component(path))
            yield "component `%s`" % registered[1]

    def input(self, here, path, kind):
        asset = re.fullmatch(r"azureml:([\w-]+)@latest", path) if isinstance(path, str) else None
        if asset:
            self.asset(asset[1], kind)
            yield "data `%s`" % asset[1]
        else:
            yield from self.beside(here, path, TEXT if kind == "uri_file" else FOLDER_TEXT)

    def beside(self, here, name, text):
        """A file, or a folder with one in it, of a path that leads to something beside the job file."""
        if not isinstance(name, str) or re.match(r"[A-Za-z+]+:|/|\$|~", name):
            return
        path = os.path.normpath(os.path.join(here, name))
        if path not in self.files and not os.path.exists(path) and path.startswith(FOLDER):
            self.files.add(path)
            write(os.path.join(path, "stand-in.txt") if text is FOLDER_TEXT else path, text)
        if path in self.files:
            yield "`%s`" % name.removeprefix("./")

    def cluster(self, name):
        name = re.fullmatch(r"azureml:([\w-]+)", name) if isinstance(name, str) else None
        if not name or name[1] == "serverless" or name[1] in self.clusters:
            return
        self.clusters.add(name[1])
        network = NetworkSettings(vnet_name=SUBNET.split("/")[0], subnet=SUBNET.split("/")[1])
        wanted = AmlCompute(name=name[1], size="STANDARD_DS3_V2", max_instances=2, network_settings=network)
        client.compute.begin_create_or_update(wanted).result()

    def asset(self, name, kind):
        if name in self.data:
            return
        self.data.add(name)
        path = os.path.join(FOLDER, "assets", name)
        write(os.path.join(path, "stand-in.txt"), TEXT)
        path = os.path.join(path, "stand-in.txt") if kind == "uri_file" else path
        client.data.create_or_update(Data(name=name, version="1", type=kind, path=path))


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as made:
        made.write(text)


def members(part, name):
    return list(part[name].values()) if isinstance(part.get(name), dict) else []


def one_line(text):
    """What it says, without what differs from run to run and from machine to machine."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(text)).replace(FOLDER.rstrip("/") + "/", "")
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{32,}\b|\bmoatjobsstorage\w+", "...", text)
    text = re.sub(r"It has [^;]*; ask for one of these", "It has others; ask for one of these", text)
    # The client sets its details apart from its advice by signs and blank lines.
    details = re.findall(r"^(?:\(x\)|\d+\)|x) (.*)", text, re.MULTILINE)
    lines = details or [line.strip() for line in text.splitlines() if line.strip()][:1]
    return " ".join(" ".join(lines).split()).replace("|", "/")[:240]


def refusal(error):
    """Why the client did not take a file."""
    text = str(error).encode().decode("unicode_escape", "replace")
    # Its validation says at length what each member might have been; which members they are is enough.
    members = re.findall(r'^  "(\w+)": ', text.partition("JobSchema failed:")[2], re.MULTILINE)
    if members:
        return "client: %s" % type(error).__name__, "its schema refuses %s" % ", ".join(sorted(set(members)))
    # Others come as JSON, or as text.
    said = re.findall(r'"message": "(.*)"', text)
    return "client: %s" % type(error).__name__, one_line(" ".join(said) or error)


def submit(path, made):
    """The job that was accepted, or outcome and reason."""
    try:
        job = load_job(path)
    except Exception as error:  # whatever the client refuses itself
        return None, refusal(error)
    # Many files have the same name.
    job.name = None
    if job.type in ("command", "sweep") and not job.compute:
        stand_ins.cluster("azureml:" + CLUSTER)
        job.compute = CLUSTER
        made.append("compute")
    try:
        return client.jobs.create_or_update(job), None
    except HttpResponseError as error:
        inner = getattr(error, "error", None)
        code = inner.code if inner is not None and inner.code else str(error.status_code)
        message = inner.message if inner is not None and inner.message else error.message
        return None, ("refused: %s" % code, one_line(message))
    except Exception as error:
        return None, refusal(error)


def ended(name, status):
    """Outcome and reason of a job that has ended: of a program that failed, its last words."""
    if status != "Failed":
        return status, ""
    error = (details(name).as_dict().get("error") or {}).get("error") or {}
    message = error.get("message", "")
    step = re.match(r"Its step '%s_([\w-]+)' failed: " % name, message)
    where = "step `%s`: " % step[1] if step else ""
    code = re.search(r"exited with status code (\d+)", message)
    if not code:
        inner = error.get("innerError") or error.get("inner_error") or {}
        why = message[step.end():] if step else message
        return "Failed: %s" % (inner.get("code") or error.get("code")), where + one_line(why.replace(name, "NAME"))
    log = details("%s_%s" % (name, step[1]) if step else name).log_files["user_logs/std_log.txt"]
    lines = BlobClient.from_blob_url(log).download_blob().readall().decode().split("\n")
    words = [line for line in lines if line.strip()][-1:]
    return "Failed: exit code %s" % code[1], where + one_line("".join(words).replace(name, "NAME"))


def details(run):
    return client.jobs._runs_operations.get_run_details(run)


def tell(file, made, outcome, why):
    print(json.dumps({"file": file, "stand_ins": ", ".join(made), "outcome": outcome, "reason": why}), flush=True)


until = time.monotonic() + float(SECONDS)
stand_ins = StandIns()
running = {}
for file in FILES:
    path = os.path.join(FOLDER, file)
    made = stand_ins.of(path)
    job, refused = submit(path, made)
    if job is None:
        tell(file, made, *refused)
    else:
        running[job.name] = (file, made)
while running and time.monotonic() < until:
    for name in list(running):
        status = client.jobs.get(name).status
        if status in ENDED:
            tell(*running.pop(name), *ended(name, status))
    time.sleep(1)
for name, (file, made) in running.items():
    tell(file, made, "unfinished", "still %s after %s s" % (client.jobs.get(name).status, SECONDS))
