"""Sends src/train.py as a job with azure-ai-ml, streams its log and downloads what it made.

Usage: job.py --group G --workspace W --compute C --seed N [--fail] [--code-of RUN] [--download FOLDER]
With --code-of the code is that of an earlier run, as it was uploaded for it; without, it is uploaded if need be.
Prints the result as its last line; exits with 1 unless the job is Completed.
"""
import argparse
import json
import logging
import os
import pathlib
import sys
import time

from azure.ai.ml import MLClient, Output, command
from azure.ai.ml.entities import Environment
from azure.ai.ml.exceptions import JobException
from azure.identity import DefaultAzureCredential

HERE = pathlib.Path(__file__).resolve().parent
logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)


def main():
    parser = argparse.ArgumentParser()
    for name in ("--group", "--workspace", "--compute"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--code-of")
    parser.add_argument("--download", default="downloads")
    wanted = parser.parse_args()

    client = MLClient(
        DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], wanted.group, wanted.workspace
    )
    job = command(
        experiment_name="moons",
        display_name="half moons, seed %d" % wanted.seed,
        code=client.jobs.get(wanted.code_of).code if wanted.code_of else str(HERE / "src"),
        command="python train.py --seed ${{inputs.seed}} --model ${{outputs.model}}" + (" --fail" if wanted.fail else ""),
        environment=Environment(
            name="train", image="mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04", conda_file=str(HERE / "conda.yml")
        ),
        compute=wanted.compute,
        inputs={"seed": wanted.seed},
        outputs={"model": Output(type="uri_folder")},
    )
    started = time.monotonic()
    job = client.jobs.create_or_update(job)
    print("submitted %s in %.1f s" % (job.name, time.monotonic() - started), flush=True)
    try:
        client.jobs.stream(job.name)
    except JobException as error:
        print(error, file=sys.stderr)
    job = client.jobs.get(job.name)
    print("status %s" % job.status)
    if job.status != "Completed":
        sys.exit(1)
    folder = pathlib.Path(wanted.download) / job.name
    client.jobs.download(job.name, download_path=str(folder), all=True)
    [result] = folder.glob("artifacts/**/result.json")
    # The artifacts of a run and its named outputs are two places of the store.
    model = [file for file in (folder / "named-outputs" / "model").rglob("*") if file.is_file()]
    print("downloaded %s and the model: %s" % (result.name, ", ".join(file.name for file in model) or "none"))
    if not model:
        sys.exit(1)
    print(json.dumps(json.loads(result.read_text())))


if __name__ == "__main__":
    main()
