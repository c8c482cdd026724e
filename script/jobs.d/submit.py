"""Submits job files of others with azure-ai-ml and says what became of each: FILE<tab>OUTCOME<tab>REASON.

Arguments: resource group, workspace, folder of the files, seconds to wait for each accepted job (0: not at all), files.
A job that names a cluster gets the one that is here, and a job that names none is tried as it is.
"""
import json
import logging
import os
import re
import sys
import time

from azure.ai.ml import MLClient, load_job
from azure.ai.ml.entities import AmlCompute
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

GROUP, WORKSPACE, FOLDER, WAIT = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
CLUSTER = "jobs"
ENDED = {"Completed", "Failed", "Canceled"}

# Warnings about fields that the client does not know are no outcome.
logging.disable(logging.CRITICAL)
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], GROUP, WORKSPACE)
try:
    client.compute.get(CLUSTER)
except HttpResponseError:
    client.compute.begin_create_or_update(AmlCompute(name=CLUSTER, size="STANDARD_DS3_V2", max_instances=2)).result()


def one_line(text):
    """The first sentence, without what differs from run to run."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(text)).strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    text = lines[0] if lines else ""
    return text.replace(FOLDER.rstrip("/") + "/", "").replace("|", "/")[:240]


def submit(path):
    try:
        job = load_job(path)
    except Exception as error:  # whatever the client refuses itself
        return "client", f"{type(error).__name__}: {one_line(error)}"
    if getattr(job, "compute", None) and job.compute != "serverless":
        job.compute = CLUSTER
    try:
        made = client.jobs.create_or_update(job)
    except HttpResponseError as error:
        inner = getattr(error, "error", None)
        code = inner.code if inner is not None and inner.code else str(error.status_code)
        message = inner.message if inner is not None and inner.message else error.message
        return code, one_line(message)
    except Exception as error:
        return "client", f"{type(error).__name__}: {one_line(error)}"
    return ("accepted", "") if not WAIT else wait(made.name)


def wait(name):
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        job = client.jobs.get(name)
        if job.status in ENDED:
            return job.status, reason(name) if job.status == "Failed" else ""
        time.sleep(1)
    client.jobs.begin_cancel(name)
    return "unfinished", f"still {job.status} after {WAIT:.0f} s"


def reason(name):
    """Why it failed, as the run history says it."""
    details = client.jobs._runs_operations.get_run_details(name)
    error = (details.error or {}) if not hasattr(details.error, "error") else details.error.error
    text = error if isinstance(error, dict) else getattr(error, "as_dict", lambda: {})()
    return one_line(text.get("message") or json.dumps(text))


for file in sys.argv[5:]:
    outcome, why = submit(os.path.join(FOLDER, file))
    print(f"{file}\t{outcome}\t{why}", flush=True)
