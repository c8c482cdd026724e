"""The workspace of the demo, by azure-ai-ml alone: it deploys its own template. Usage: workspace.py GROUP NAME"""
import logging
import os
import sys

from azure.ai.ml import MLClient
from azure.ai.ml.entities import Workspace
from azure.identity import DefaultAzureCredential

logging.getLogger("azure.ai.ml").setLevel(logging.ERROR)
group, name = sys.argv[1:]
client = MLClient(DefaultAzureCredential(), os.environ["AZURE_SUBSCRIPTION_ID"], group, name)
made = client.workspaces.begin_create(Workspace(name=name, location="westus2", display_name="demo")).result()
print("workspace   %s (%s)" % (made.name, made.location))
print("storage     %s" % made.storage_account.rsplit("/", 1)[-1])
for store in sorted(client.datastores.list(), key=lambda store: store.name):
    print("datastore   %s (%s)" % (store.name, store.type))
