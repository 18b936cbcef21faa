"""A model hub on the loopback, for as much of its protocol as preflight and publishing ask for."""

import base64
import hashlib
import http.server
import json
import re
import threading
from urllib.parse import unquote, urlsplit

LARGE = 1000


class HubState:
    """What the hub holds, and what it was asked."""

    def __init__(self, token):
        self.token = token
        self.repositories = {}
        self.large = {}
        self.uploads = []
        self.commits = []
        self.created = []
        self.failures = 0


def make_handler(state):
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self):
            self.route("HEAD")

        def do_GET(self):
            self.route("GET")

        def do_POST(self):
            self.route("POST")

        def do_PUT(self):
            self.route("PUT")

        def route(self, method):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path)
            if path.startswith("/storage/"):
                return self.store(path, body)
            if self.headers.get("Authorization") != f"Bearer {state.token}":
                return self.refuse(401, "RepoNotFound")
            if path == "/api/repos/create":
                return self.create(json.loads(body))
            if path == "/api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
                return self.revision(*match.groups())
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/branch/(.+)", path):
                branches = state.repositories[match[1]]
                branches[match[2]] = dict(branches["main"])
                return self.answer({})
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
                return self.tree(*match.groups())
            if match := re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
                files = json.loads(body)["files"]
                modes = [{"path": f["path"], "uploadMode": "lfs" if f["size"] > LARGE else "regular"} for f in files]
                return self.answer({"files": [{**mode, "shouldIgnore": False, "oid": None} for mode in modes]})
            if path.endswith(".git/info/lfs/objects/batch"):
                return self.batch(json.loads(body))
            if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
                return self.commit(match[1], match[2], [json.loads(line) for line in body.splitlines()])
            if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                return self.resolve(method, *match.groups())
            return self.refuse(404, "EntryNotFound")

        def create(self, request):
            name = f"{request['organization']}/{request['name']}"
            if name in state.repositories:
                return self.answer({"url": f"{self.endpoint()}/{name}"}, 409)
            state.created.append((name, request.get("private"), request.get("visibility")))
            state.repositories[name] = {"main": {".gitattributes": b"*.safetensors filter=lfs\n"}}
            return self.answer({"url": f"{self.endpoint()}/{name}"})

        def files(self, name, revision):
            branches = state.repositories.get(name)
            if branches is None:
                return self.refuse(404, "RepoNotFound")
            found = branches.get(revision) if revision in branches else None
            found = found or next((f for f in branches.values() if head_of(f) == revision), None)
            return found if found is not None else self.refuse(404, "RevisionNotFound")

        def revision(self, name, revision):
            files = self.files(name, revision)
            if files is not None:
                siblings = [{"rfilename": path, "size": len(content)} for path, content in files.items()]
                self.answer({"id": name, "sha": head_of(files), "siblings": siblings, "private": True})

        def tree(self, name, revision):
            files = self.files(name, revision)
            if files is None:
                return None
            entries = []
            for path, content in files.items():
                oid = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest()
                entry = {"type": "file", "path": path, "size": len(content), "oid": oid}
                if len(content) > LARGE:
                    entry["oid"] = "0" * 40
                    digest = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 134}
                entries.append(entry)
            return self.answer(entries)

        def batch(self, request):
            objects = []
            for item in request["objects"]:
                entry = {"oid": item["oid"], "size": item["size"]}
                if item["oid"] not in state.large:
                    entry["actions"] = {"upload": {"href": f"{self.endpoint()}/storage/{item['oid']}"}}
                objects.append(entry)
            self.answer({"transfer": "basic", "objects": objects})

        def store(self, path, body):
            if state.failures:
                state.failures -= 1
                return self.refuse(403, "")
            digest = path.rpartition("/")[2]
            assert hashlib.sha256(body).hexdigest() == digest
            state.large[digest] = body
            state.uploads.append(digest)
            return self.answer({})

        def commit(self, name, branch, lines):
            files = self.files(name, branch)
            header = next(line["value"] for line in lines if line["key"] == "header")
            for line in lines:
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = state.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            state.commits.append(header["summary"])
            sha = head_of(files)
            self.answer({"success": True, "commitOid": sha, "commitUrl": f"{self.endpoint()}/{name}/commit/{sha}"})

        def resolve(self, method, name, revision, path):
            files = self.files(name, revision)
            if files is None:
                return None
            if path not in files:
                return self.refuse(404, "EntryNotFound")
            content = files[path]
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", head_of(files))
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return None if method == "HEAD" else self.wfile.write(content)

        def endpoint(self):
            return f"http://{self.headers['Host']}"

        def answer(self, content, status=200):
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def refuse(self, status, code):
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    return Handler


def head_of(files):
    """The commit of files that the hub holds."""
    return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


def serve(token):
    """Start a hub; returns (its state, its address, a function that stops it)."""
    state = HubState(token)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), make_handler(state))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop():
        server.shutdown()
        server.server_close()

    return state, f"http://127.0.0.1:{server.server_port}", stop
