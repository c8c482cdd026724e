"""Trains a two-layer network on two interleaved half moons. Numpy only; metrics by MLflow.

Writes MODEL/model.npz and ./outputs/result.json (azure-ai-ml uploads both).
"""
import argparse
import json
import os
import pathlib
import platform
import socket

import mlflow
import numpy as np

EPOCHS = 300
HIDDEN = 16
RATE = 0.4


def half_moons(points, noise, random):
    angle = random.uniform(0, np.pi, points)
    side = random.integers(0, 2, points)
    x = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    x[side == 1] = [1, 0.5] - x[side == 1]
    return x + random.normal(0, noise, x.shape), side.astype(float)


def train(x, y, random, report):
    w1, b1 = random.normal(0, 1, (2, HIDDEN)), np.zeros(HIDDEN)
    w2, b2 = random.normal(0, 1, HIDDEN), 0.0
    for epoch in range(EPOCHS):
        hidden = np.tanh(x @ w1 + b1)
        p = 1 / (1 + np.exp(-(hidden @ w2 + b2)))
        error = (p - y) / len(y)
        back = np.outer(error, w2) * (1 - hidden**2)
        w2, b2 = w2 - RATE * len(w2) * hidden.T @ error, b2 - RATE * error.sum()
        w1, b1 = w1 - RATE * len(w2) * x.T @ back, b1 - RATE * back.sum(axis=0)
        if epoch % 60 == 0 or epoch == EPOCHS - 1:
            loss = -np.mean(y * np.log(p + 1e-9) + (1 - y) * np.log(1 - p + 1e-9))
            report(epoch, float(loss))
    return w1, b1, w2, b2


def accuracy(model, x, y):
    w1, b1, w2, b2 = model
    return float(np.mean((np.tanh(x @ w1 + b1) @ w2 + b2 > 0) == (y == 1)))


def address():
    """The node's own address: the kernel picks it for a packet that is never sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("168.63.129.16", 53))
        return probe.getsockname()[0]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--fail", action="store_true", help="end with an error after the first report")
    wanted = parser.parse_args()

    random = np.random.default_rng(wanted.seed)
    x, y = half_moons(600, 0.25, random)
    held_out = half_moons(2000, 0.25, random)

    def report(epoch, loss):
        print("epoch %3d  loss %.4f" % (epoch, loss), flush=True)
        mlflow.log_metric("loss", loss, step=epoch)
        if wanted.fail:
            raise SystemExit("asked to fail")

    # Plain MLflow talks to the same endpoint over https, with the run's token from MLFLOW_TRACKING_TOKEN.
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"].replace("azureml://", "https://", 1))
    print("training with seed %d on %s (%s)" % (wanted.seed, platform.node(), address()), flush=True)
    mlflow.log_param("seed", wanted.seed)
    model = train(x, y, random, report)
    score = accuracy(model, *held_out)
    mlflow.log_metric("accuracy", score)
    print("accuracy %.4f" % score, flush=True)

    folder = pathlib.Path(wanted.model)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "model.npz", *[np.asarray(part) for part in model])
    outputs = pathlib.Path("outputs")
    outputs.mkdir(exist_ok=True)
    result = {
        "seed": wanted.seed, "accuracy": score, "node": platform.node(), "address": address(),
        "run": os.environ.get("AZUREML_RUN_ID"),
    }
    (outputs / "result.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
