"""Makes one environment. Runs in the sandbox of a build, with the interpreter that jobs will have.

Everything comes from the proxy at `index`, which is the only thing that can be reached from here. What is printed is
the log that a person reads; the exit code says whether the environment is good.
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
import venv


def fetch_pip(index, folder, version):
    """pip as a wheel: the machine's own may be absent, patched or configured."""
    path = os.path.join(folder, "pip-%s-py3-none-any.whl" % version)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(index + "/pip.whl", timeout=120) as answer, open(path, "wb") as out:
        shutil.copyfileobj(answer, out)
    return path


def main(job):
    target = job["folder"]
    scratch = os.path.join(target, ".build")
    os.makedirs(scratch)
    os.environ["TMPDIR"] = scratch
    print("python %s, pip %s" % (sys.version.split()[0], job["pip"]), flush=True)
    try:
        pip = fetch_pip(job["index"], scratch, job["pip"])
    except urllib.error.HTTPError as error:
        print("pip cannot be had: " + error.read(1000).decode("utf-8", "replace"), flush=True)
        return 1
    except OSError as error:
        print("pip cannot be had: %s" % error, flush=True)
        return 1
    venv.EnvBuilder(symlinks=True, with_pip=False).create(target)
    requirements = os.path.join(scratch, "requirements.txt")
    with open(requirements, "w", encoding="utf-8") as out:
        out.write("".join(line + "\n" for line in job["requirements"]))
    command = [
        os.path.join(target, "bin", "python"), "-I", pip + "/pip", "install",
        "--isolated", "--disable-pip-version-check", "--no-input", "--progress-bar", "off",
        "--only-binary", ":all:", "--no-cache-dir", "--retries", "1", "--timeout", "120",
        "--index-url", job["index"] + "/simple", "--requirement", requirements,
    ]
    code = subprocess.call(command, stdin=subprocess.DEVNULL)
    shutil.rmtree(scratch, ignore_errors=True)
    return code


sys.exit(main(json.loads(sys.argv[1])))
