"""Takes the uploaded code of the newest job away: what `--break blob` breaks. Usage: code.py GROUP WORKSPACE"""
import os
import sys

from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
from azure.storage.blob import ContainerClient

group, name = sys.argv[1:]
credential = DefaultAzureCredential()
client = MLClient(credential, os.environ["AZURE_SUBSCRIPTION_ID"], group, name)
job = max(client.jobs.list(), key=lambda job: job.creation_context.created_at)
code = job.code.split("/")
location = client._code.get(code[code.index("codes") + 1], code[-1]).path
container, _, prefix = location.partition(".net/")[2].partition("/")
blobs = ContainerClient(location.partition(".net/")[0] + ".net", container, credential)
taken = 0
for blob in blobs.list_blobs(name_starts_with=prefix):
    blobs.delete_blob(blob.name)
    taken += 1
print("%d blobs of the code at %s/%s are gone" % (taken, container, prefix))
sys.exit(taken == 0)
