# What a job tries that it must not be able to do. Prints one JSON line for each: what it was, and what came of it.
import base64, errno, json, os, socket, sys, urllib.error, urllib.parse, urllib.request

given = json.loads(sys.argv[1])
run, token = os.environ["AZUREML_RUN_ID"], os.environ["AZUREML_RUN_TOKEN"]
IMDS = "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource="
ARM = "https://management.azure.com"


def tried(what, action):
    try:
        said = action()
    except urllib.error.HTTPError as refusal:
        said = refusal.code
    except socket.timeout:
        said = "no answer"
    except OSError as error:
        said = errno.errorcode.get(error.errno, type(error).__name__)
    print(json.dumps({"what": what, "said": str(said)}), flush=True)


def connect(to, kind=socket.AF_INET):
    with socket.socket(kind) as s:
        s.settimeout(3)
        s.connect(to)
    return "connected"


def ask(method, url, body=None, bearer=token, **headers):
    if bearer:
        headers["Authorization"] = "Bearer " + bearer
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    headers.setdefault("Content-Type", "application/json")
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=10) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def imds(resource, **headers):
    return ask("GET", IMDS + resource, bearer=None, Metadata="true", **headers)["access_token"]


def claims(text):
    part = text.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def who():
    return claims(imds(ARM))["oid"]


def login(**form):
    url = "https://login.microsoftonline.com/%s/oauth2/v2.0/token" % given["tenant"]
    form = urllib.parse.urlencode({"scope": ARM + "/.default", **form}).encode()
    return ask("POST", url, form, bearer=None, **{"Content-Type": "application/x-www-form-urlencoded"})["scope"]


def lie(address):
    # IP_FREEBIND needs no right: the kernel lets a socket have an address that the node has not.
    with socket.socket() as s:
        s.settimeout(3)
        s.setsockopt(socket.SOL_IP, 15, 1)
        s.bind((address, 0))
        s.connect(("169.254.169.254", 80))
    return "connected"


def bound(address):
    with socket.socket() as s:
        s.bind((address, 0))
    return "bound"


def opened(*kind):
    socket.socket(*kind).close()
    return "opened"


def fill(path):
    written = 0
    try:
        with open(path, "wb", buffering=0) as f:
            while written < 1 << 30:
                written += f.write(bytes(1 << 20))
    finally:
        os.unlink(path)
    return written


tried("who", who)
if not given.get("victim"):
    sys.exit()

tried("host files", lambda: [p for p in given["files"] if os.path.exists(p)])
tried("host names", lambda: [n for n in os.listdir("/") if n in ("home", "root", "run", "var", "sys", "boot", "srv")])
tried("control socket", lambda: connect(given["control"], socket.AF_UNIX))
tried("abstract sockets", lambda: [line.split()[-1] for line in open("/proc/net/unix") if "@" in line])
tried("host's loopback", lambda: connect(("127.0.0.1", given["port"])))
pids = [p for p in os.listdir("/proc") if p.isdigit()]
tried("processes", lambda: sorted({open("/proc/%s/comm" % p).read().strip() for p in pids}))
tried("what the last job left", lambda: [os.path.join(d, f) for d, _, files in os.walk("/") for f in files if f == given["left"]])
for folder in (".", "/tmp"):
    tried("fill " + folder, lambda: fill(folder + "/full"))

other = given["other"]
tried("who, asking for the other", lambda: claims(imds(ARM + "&object_id=" + given["other who"]))["oid"])
tried("who, forwarded", lambda: claims(imds(ARM, **{"X-Forwarded-For": other}))["oid"])
tried("the other's address", lambda: bound(other))
tried("the other's address, freely", lambda: lie(other))
tried("raw socket", lambda: opened(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP))
tried("packet socket", lambda: opened(socket.AF_PACKET, socket.SOCK_RAW, 0))
tried("the other's open port", lambda: connect((other, 29876)))
tried("the other's closed port", lambda: connect((other, 44224)))

identity = imds(ARM)
tried("ARM as the node", lambda: ask("PUT", ARM + given["group"], {"location": "westus2"}, identity))
tried("ARM as the run", lambda: ask("GET", ARM + given["workspace"] + "?api-version=2023-04-01"))
tried("storage as the run", lambda: ask("GET", given["blobs"] + "?restype=container&comp=list", **{"x-ms-version": "2021-08-06"}))
tried("wider by client assertion", lambda: login(grant_type="client_credentials", client_id=run,
      client_assertion_type="urn:ietf:params:oauth:client-assertion-type:jwt-bearer", client_assertion=token))
tried("wider as the node", lambda: login(grant_type="client_credentials", client_id=run,
      client_assertion_type="urn:ietf:params:oauth:client-assertion-type:moat-node", client_assertion=token))
tried("wider on behalf of", lambda: login(grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer", client_id=run,
      client_secret="x", assertion=token, requested_token_use="on_behalf_of"))
for name in (run, given["victim"]):
    who_s = "own" if name == run else "other's"
    base, at = given["region"], given["workspace"]
    history = "%s/history/v1.0%s/runs/%s" % (base, at, name)
    tried(who_s + " run", lambda: ask("GET", history)["runId"] == name)
    tried(who_s + " tags", lambda: ask("PATCH", history, {"tags": {"seen": "yes"}})["runId"] == name)
    tried(who_s + " token", lambda: "token" in ask("GET", history + "/token"))
    metric = {"values": [{"name": "m", "value": [{"data": {"m": 1}}]}]}
    tried(who_s + " metrics", lambda: ask("POST", "%s/metric/v2.0%s/runs/%s/batch" % (base, at, name), metric)["errors"])
    artifact = "%s/artifact/v2.0%s/artifacts/contentinfo/ExperimentRun/dcid.%s/user_logs/std_log.txt"
    tried(who_s + " artifact", lambda: "contentUri" in ask("GET", artifact % (base, at, name)))
    spec = "%s/node/v1.0%s/runs/%s/attempts/1" % (base, at, name)
    tried(who_s + " specification", lambda: "program" in ask("GET", spec))
tried("other's end", lambda: ask("POST", "%s/history/v1.0%s/runs/%s/cancel" % (given["region"], given["workspace"], given["victim"]), {}))
