"""The cluster of the demo, by azureml-core alone: create, wait, list, shorten the idle time.

Usage: cluster.py create | wait NODES | watch FILE | nodes | address | idle SECONDS
"""
import os
import sys
import time

from azureml.core import Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.compute_target import ComputeTargetException

NAME = "cpucluster"
WAIT_SECONDS_MAX = 180
POLL_SECONDS = 1


def workspace():
    auth = ServicePrincipalAuthentication(
        os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"]
    )
    return Workspace.get(
        "moatws", auth=auth, subscription_id=os.environ["AZURE_SUBSCRIPTION_ID"], resource_group="mlgroup"
    )


def create():
    ws = workspace()
    try:
        ComputeTarget(workspace=ws, name=NAME)
        sys.exit("there is a cluster of that name already")
    except ComputeTargetException:
        pass
    wanted = AmlCompute.provisioning_configuration(
        vm_size="STANDARD_D2_V2",
        min_nodes=0,
        max_nodes=4,
        location="westus2",
        vnet_resourcegroup_name="mygroup",
        vnet_name="mynetwork",
        subnet_name="default",
    )
    cluster = ComputeTarget.create(ws, NAME, wanted)
    cluster.wait_for_completion(show_output=True)
    if cluster.provisioning_state != "Succeeded":
        sys.exit("the cluster is %s" % cluster.provisioning_state)
    scale = cluster.scale_settings
    print("%s nodes, subnet %s of %s, %d to %d nodes, idle %d s" % (
        cluster.vm_size, cluster.subnet_name, cluster.vnet_name,
        scale.minimum_node_count, scale.maximum_node_count, scale.idle_seconds_before_scaledown))


def cluster_of(ws):
    return ComputeTarget(workspace=ws, name=NAME)


def describe(status):
    counts = status.node_state_counts
    states = ("preparing", "idle", "running", "unusable", "leaving")
    some = ["%d %s" % (n, s) for s in states for n in [getattr(counts, s + "_node_count")] if n]
    return "%s: %s of %s nodes%s" % (
        status.allocation_state, status.current_node_count, status.target_node_count,
        " (" + ", ".join(some) + ")" if some else "")


def wait(nodes):
    """Until exactly NODES nodes are idle. Nodes that packets cannot reach end the wait with the cluster's errors."""
    cluster = cluster_of(workspace())
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    said = None
    while True:
        cluster.refresh_state()
        status = cluster.get_status()
        text = describe(status)
        if text != said:
            print(text, flush=True)
            said = text
        idle = status.node_state_counts.idle_node_count
        if status.current_node_count == nodes == idle and status.allocation_state == "Steady":
            break
        if status.errors:
            trouble(cluster, status)
        if time.monotonic() > deadline:
            sys.exit("after %d s: %s" % (WAIT_SECONDS_MAX, text))
        time.sleep(POLL_SECONDS)
    table(cluster.list_nodes())


def watch(file):
    """Until FILE is there (a job has ended), saying how the cluster is. Nodes that packets cannot reach end it."""
    cluster = cluster_of(workspace())
    said = None
    while not os.path.exists(file):
        cluster.refresh_state()
        status = cluster.get_status()
        text = describe(status)
        if text != said:
            print(text, flush=True)
            said = text
        if status.errors:
            trouble(cluster, status)
        time.sleep(POLL_SECONDS)


def trouble(cluster, status):
    table(cluster.list_nodes())
    for error in status.errors:
        error = error.get("error", error)
        print("%s: %s" % (error.get("code"), error.get("message")))
    sys.exit(1)


def nodes():
    table(cluster_of(workspace()).list_nodes())


def table(nodes):
    for node in nodes:
        print("%s  %-8s  %s  public %s:%s" % (
            node["nodeId"], node["nodeState"], node["privateIpAddress"], node["publicIpAddress"], node["port"]))


def address():
    """Public address and mapped management port of one node, and its private address."""
    node = cluster_of(workspace()).list_nodes()[0]
    print(node["publicIpAddress"], node["port"], node["privateIpAddress"])


def idle(seconds):
    cluster = cluster_of(workspace())
    before = cluster.scale_settings.idle_seconds_before_scaledown
    cluster.update(idle_seconds_before_scaledown=seconds)
    cluster.wait_for_completion()
    cluster.refresh_state()
    after = cluster.scale_settings.idle_seconds_before_scaledown
    print("idle seconds before scale-down: %d, now %d" % (before, after))
    if after != seconds:
        sys.exit("the update did not hold")


if __name__ == "__main__":
    command, rest = sys.argv[1], [int(word) if word.isdigit() else word for word in sys.argv[2:]]
    commands = {"create": create, "wait": wait, "watch": watch, "nodes": nodes, "address": address, "idle": idle}
    commands[command](*rest)
