#!/usr/bin/env python3
"""Answers for registry.k8s.io, as a proxy that nodes ask by HTTP: `registry.py ARCHIVE ADDRESS PORT`.

Serves what images.py has made (OCI distribution-spec, pulling only); everything else is not found.
"""

import hashlib
import http.server
import json
import sys
import tarfile
from urllib.parse import urlsplit

HOST = "registry.k8s.io"
OCI = "application/vnd.oci.image."


def read(path):
    """Manifests by the image's name and tag, and blobs by their digest."""
    manifests, blobs = {}, {}
    with tarfile.open(path) as archive:
        content = lambda name: archive.extractfile(name).read()

        def blob(kind, name):
            data = content(name)
            digest = "sha256:" + hashlib.sha256(data).hexdigest()
            blobs[digest] = data
            return {"mediaType": OCI + kind, "digest": digest, "size": len(data)}

        for image in json.loads(content("manifest.json")):
            config, layers = blob("config.v1+json", image["Config"]), [blob("layer.v1.tar", layer) for layer in image["Layers"]]
            manifest = {"schemaVersion": 2, "mediaType": OCI + "manifest.v1+json", "config": config, "layers": layers}
            data = json.dumps(manifest).encode()
            for tag in image["RepoTags"]:
                manifests[tuple(tag.removeprefix(HOST + "/").split(":"))] = data
                manifests[tag.removeprefix(HOST + "/").split(":")[0], "sha256:" + hashlib.sha256(data).hexdigest()] = data
    return manifests, blobs


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    manifests, blobs = {}, {}

    def find(self):
        url = urlsplit(self.path)
        parts = url.path.strip("/").split("/")
        if (url.hostname or self.headers["Host"]) != HOST or parts[0] != "v2":
            return None
        if len(parts) == 1:
            return "application/json", b"{}"
        name, kind, which = "/".join(parts[1:-2]), parts[-2], parts[-1]
        if kind == "manifests" and (name, which) in self.manifests:
            return OCI + "manifest.v1+json", self.manifests[name, which]
        return ("application/octet-stream", self.blobs[which]) if kind == "blobs" and which in self.blobs else None

    def do_GET(self):
        found = self.find()
        missing = json.dumps({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}).encode()
        kind, content = found or ("application/json", missing)
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Docker-Content-Digest", "sha256:" + hashlib.sha256(content).hexdigest())
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


if __name__ == "__main__":
    path, address, port = sys.argv[1:]
    Registry.manifests, Registry.blobs = read(path)
    http.server.ThreadingHTTPServer((address, int(port)), Registry).serve_forever()
