# A client of the environment with nothing but the standard library. Reads a JSON list of requests
# [method, target, body] and prints one JSON line for each answer. A target is a path below the subscription, or a
# whole address of another service; a body that is text is sent as it is.
import json, os, sys, urllib.error, urllib.parse, urllib.request

SUB = "/subscriptions/" + os.environ["AZURE_SUBSCRIPTION_ID"]
LOGIN = "https://login.microsoftonline.com/%s/oauth2/v2.0/token" % os.environ["AZURE_TENANT_ID"]
tokens = {}


def token(host):
    audience = "https://storage.azure.com" if host.endswith(".blob.core.windows.net") else "https://management.azure.com"
    if audience not in tokens:
        form = {"grant_type": "client_credentials", "client_id": os.environ["AZURE_CLIENT_ID"],
                "client_secret": os.environ["AZURE_CLIENT_SECRET"], "scope": audience + "/.default"}
        answer = json.load(urllib.request.urlopen(LOGIN, urllib.parse.urlencode(form).encode()))
        tokens[audience] = answer["access_token"]
    return tokens[audience]


def send(method, target, body):
    fill = lambda text: text.replace("{sub}", SUB).replace("{tenant}", os.environ["AZURE_TENANT_ID"])
    target = fill(target)
    headers = {"Content-Type": "application/json"}
    if not target.startswith("https://"):
        start = "" if target.startswith(SUB) else SUB
        version = "&" if "?" in target else "?"
        target = "https://management.azure.com" + start + target + version + "api-version=2022-01-01"
    host = urllib.parse.urlsplit(target).hostname
    if host.endswith(".blob.core.windows.net"):
        headers = {"x-ms-version": "2021-08-06", "x-ms-blob-type": "BlockBlob", "Content-Type": "text/plain"}
    headers["Authorization"] = "Bearer " + token(host)
    data = None if body is None else fill(body if isinstance(body, str) else json.dumps(body)).encode()
    request = urllib.request.Request(target, method=method, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read()


for request in json.loads(sys.argv[1]):
    status, answer = send(*request)
    text = answer.decode(errors="replace")
    try:
        shown = json.loads(text) if text.strip() else None
    except ValueError:
        shown = text
    print(json.dumps({"status": status, "body": shown}))
