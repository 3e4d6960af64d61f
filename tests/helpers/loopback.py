"""A Hub on localhost: the parts of the Hugging Face Hub's interface that push and pull use.

``python loopback.py`` is not meant to run by itself; ``LoopbackHub`` is started by a fixture.
Faults are switched on by ``hub.faults``: file name -> one of "cut", "flip", "503 once", or
repository -> the status that it answers with.
"""

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class LoopbackHub(ThreadingHTTPServer):
    daemon_threads = True
    token = "hf_loopback"  # noqa: S105

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos = {}  # id -> {"commits": {sha: {path: bytes}}, "refs": {name: sha}}
        self.lfs = {}  # sha256 -> bytes
        self.faults = {}
        self.requests = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def create(self, repo_id):
        empty = self.commit_id({})
        self.repos.setdefault(repo_id, {"commits": {empty: {}}, "refs": {"main": empty}})

    @staticmethod
    def commit_id(files):
        whole = hashlib.sha1()  # noqa: S324
        for path in sorted(files):
            whole.update(path.encode() + b"\0" + hashlib.sha256(files[path]).digest())
        return whole.hexdigest()

    def resolve(self, repo_id, revision):
        repo = self.repos[repo_id]
        sha = repo["refs"].get(revision, revision)
        return sha, repo["commits"][sha]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def _json(self, value, status=200, headers=None):
        self._send(
            json.dumps(value).encode(), status, {"Content-Type": "application/json"}, headers
        )

    def _send(self, body, status=200, headers=None, more=None):
        self.send_response(status)
        for name, value in {**(headers or {}), **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _error(self, status, code, message):
        self._json({"error": message}, status, {"X-Error-Code": code, "X-Error-Message": message})

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _parts(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.server.requests.append(f"{self.command} {path}")
        return path.split("/")

    def _allowed(self):
        if self.headers.get("Authorization") == f"Bearer {self.server.token}":
            return True
        self._error(401, "", "Invalid username or password.")
        return False

    # -- reading ---------------------------------------------------------------------------------

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self._parts()
        if parts[:2] == ["api", "whoami-v2"]:
            self._json({"type": "user", "name": "user", "auth": {"accessToken": {"role": "write"}}})
        elif parts[:2] == ["api", "models"]:
            self._info("/".join(parts[2:4]), parts[4:])
        elif "resolve" in parts:
            at = parts.index("resolve")
            self._file("/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]))
        else:
            self._error(404, "", "not a page of this Hub")

    def _find(self, repo_id, revision):
        if repo_id not in self.server.repos:
            self._error(401, "RepoNotFound", "Repository not found")
            return None
        try:
            return self.server.resolve(repo_id, revision)
        except KeyError:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None

    def _info(self, repo_id, rest):
        if repo_id in self.server.faults:
            self._error(self.server.faults[repo_id], "", "no, says this Hub")
            return
        revision = rest[1] if rest[:1] in (["revision"], ["tree"]) else "main"
        found = self._find(repo_id, revision)
        if found is None:
            return
        sha, files = found
        if rest[:1] == ["tree"]:
            self._json([self._entry(path, files[path]) for path in sorted(files)])
        elif rest[:1] == ["refs"]:
            refs = self.server.repos[repo_id]["refs"]
            self._json(
                {
                    "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": sha}],
                    "converts": [],
                    "tags": [
                        {"name": name, "ref": f"refs/tags/{name}", "targetCommit": commit}
                        for name, commit in refs.items()
                        if name != "main"
                    ],
                }
            )
        else:
            siblings = [{"rfilename": path} for path in sorted(files)]
            self._json({"id": repo_id, "sha": sha, "private": False, "siblings": siblings})

    @staticmethod
    def _entry(path, data):
        digest = hashlib.sha256(data).hexdigest()
        entry = {"type": "file", "oid": digest[:40], "size": len(data), "path": path}
        if path.endswith((".safetensors", ".parquet", ".png")):
            entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 130}
        return entry

    def _file(self, repo_id, revision, path):
        found = self._find(repo_id, revision)
        if found is None:
            return
        sha, files = found
        if path not in files:
            self._error(404, "EntryNotFound", f"{path} does not exist on {revision}")
            return
        data = files[path]
        digest = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": sha, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        fault = self.server.faults.get(path) if self.command == "GET" else None
        if fault == "503 once":
            del self.server.faults[path]
            self._error(503, "", "try again")
        elif fault == "flip":
            self._send(data[:-1] + bytes([data[-1] ^ 1]), 200, headers)
        elif fault == "cut":
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.close_connection = True
        else:
            self._send(data, 200, headers)

    # -- writing ---------------------------------------------------------------------------------

    def do_PUT(self):
        digest = self._parts()[-1]
        data = self._body()
        good = hashlib.sha256(data).hexdigest() == digest
        if good:
            self.server.lfs[digest] = data
        self._send(b"", 200 if good else 400)

    def do_POST(self):
        parts = self._parts()
        body = self._body()
        if not self._allowed():
            return
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo_id = f"{asked.get('organization') or 'user'}/{asked['name']}"
            known = repo_id in self.server.repos
            self.server.create(repo_id)
            self._json(
                {"url": f"{self.server.url}/{repo_id}", "id": repo_id}, 409 if known else 200
            )
        elif parts == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif parts[-3:] == ["lfs", "objects", "batch"]:
            self._lfs_batch(json.loads(body))
        else:
            self._write("/".join(parts[2:4]), parts[4], parts[5] if len(parts) > 5 else "", body)

    def _lfs_batch(self, asked):
        objects = []
        for item in asked["objects"]:
            upload = {"href": f"{self.server.url}/lfs-store/{item['oid']}"}
            done = item["oid"] in self.server.lfs
            objects.append({**item, **({} if done else {"actions": {"upload": upload}})})
        self._json({"transfer": "basic", "objects": objects})

    def _write(self, repo_id, action, revision, body):
        found = self._find(repo_id, revision if action in {"preupload", "commit"} else "main")
        if found is None:
            return
        repo, (sha, files) = self.server.repos[repo_id], found
        if action == "preupload":
            modes = [
                {
                    "path": item["path"],
                    "uploadMode": "lfs"
                    if item["path"].endswith((".safetensors", ".parquet", ".png"))
                    else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for item in json.loads(body)["files"]
            ]
            self._json({"files": modes})
        elif action == "commit":
            files = dict(files)
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif entry["key"] == "lfsFile":
                    files[value["path"]] = self.server.lfs[value["oid"]]
                elif entry["key"] == "deletedFile":
                    del files[value["path"]]
            commit = self.server.commit_id(files)
            repo["commits"][commit] = files
            repo["refs"][revision] = commit
            self._json(
                {"commitUrl": f"{self.server.url}/{repo_id}/commit/{commit}", "commitOid": commit}
            )
        elif action in {"tag", "branch"}:
            name = json.loads(body).get("tag") or revision
            repo["refs"][name] = sha
            self._json({})
        else:
            self._error(404, "", f"{action} is not here: {parse_qs(urlsplit(self.path).query)}")
