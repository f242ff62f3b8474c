#!/usr/bin/env python3
"""Stands in for the images of Kubernetes' tests, since no registry can be reached: `images.py FOLDER ARCHIVE`.

Each is one layer of Debian's busybox and programs built from Kubernetes' sources, under the name that the tests ask for.
What differs from the real ones: nc knows no -v.
"""

import glob
import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile

REGISTRY = "registry.k8s.io/e2e-test-images/"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FOLDERS = "bin etc usr/bin usr/local/bin usr/sbin sbin var/run var/lib home/user-defined-in-image root mnt run proc sys dev lib lib64"
PASSWD = """root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/sbin/nologin
user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh
"""
GROUP = """root:x:0:
nogroup:x:65534:
user-defined-in-image:x:1000:
group-defined-in-image:x:50000:user-defined-in-image
"""
TOOLS = "/usr/bin/curl /usr/bin/dig /usr/bin/getent /bin/nc /bin/bash /bin/ip /bin/ss /usr/bin/iperf /usr/bin/host /usr/bin/nslookup"


class Layer:
    """A file tree as a tar; what is there already is left alone."""

    def __init__(self):
        self.bytes = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.bytes, mode="w")
        self.names = set()

    def add(self, name, kind, mode=0o755, content=b"", target=""):
        if name in self.names:
            return
        self.names.add(name)
        if os.path.dirname(name):
            self.folder(os.path.dirname(name))
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.size, entry.linkname = kind, mode, len(content), target
        self.tar.addfile(entry, io.BytesIO(content))

    def folder(self, name, mode=0o755):
        self.add(name, tarfile.DIRTYPE, mode)

    def text(self, name, text):
        self.add(name, tarfile.REGTYPE, 0o644, text.encode())

    def link(self, name, target):
        self.add(name, tarfile.SYMTYPE, target=target)

    def file(self, source, name, mode=0o755):
        with open(os.path.realpath(source), "rb") as file:
            self.add(name, tarfile.REGTYPE, mode, file.read())

    def program(self, path):
        """With the libraries that it is linked to."""
        self.file(path, path.lstrip("/"))
        for line in subprocess.run(["ldd", path], capture_output=True, text=True).stdout.splitlines():
            library = line.split("=>")[-1].strip().split(" ")[0]
            if library.startswith("/"):
                self.file(library, library.lstrip("/"))

    def close(self):
        self.tar.close()
        return self.bytes.getvalue()


class Images:
    """An archive as `docker save` writes it."""

    def __init__(self, programs, path):
        self.programs, self.archive, self.manifest = programs, tarfile.open(path, "w"), []

    def busybox(self):
        layer = Layer()
        layer.folder("tmp", 0o1777)
        for folder in FOLDERS.split():
            layer.folder(folder)
        layer.file("/bin/busybox", "bin/busybox")
        for name, text in [("passwd", PASSWD), ("group", GROUP), ("os-release", "ID=alpine\n"), ("nsswitch.conf", "hosts: files dns\n")]:
            layer.text(f"etc/{name}", text)
        return layer

    def applets(self, layer):
        # Debian's busybox is older than the one that the tests ask for: its shell forgets variables like `data-1`.
        layer.file("/bin/bash-static", "bin/bash")
        for applet in subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True).stdout.split():
            layer.link(f"bin/{applet}", "bash" if applet == "sh" else "busybox")
        return layer

    def agnhost(self):
        layer = self.busybox()
        for tool in filter(os.path.exists, TOOLS.split()):
            layer.program(tool)
        for library in glob.glob("/lib/*/libnss_*.so.2") + glob.glob("/lib/*/libresolv.so.2"):
            layer.file(library, library.lstrip("/"))
        layer.file(f"{self.programs}/agnhost", "agnhost")
        layer.link("agnhost-2", "agnhost")
        for file in ("localhost.crt", "localhost.key"):
            layer.file(f"{self.programs}/sources/agnhost/porter/{file}", file, 0o644)
        layer.folder("uploads")
        return self.applets(layer)

    def pet(self, name):
        layer = self.agnhost()
        layer.file(f"{self.programs}/sources/{name}/html/{name}.jpg", f"{name}.jpg", 0o644)
        layer.file(f"{self.programs}/sources/{name}/html/data.json", "data.json", 0o644)
        return layer

    def nginx(self):
        layer = self.applets(self.busybox())
        layer.file(f"{self.programs}/agnhost", "agnhost")
        layer.text("usr/share/nginx/html/index.html", "<title>Welcome to nginx!</title>")
        return layer

    def with_program(self, name, path, mode=0o755):
        layer = self.applets(self.busybox())
        layer.file(f"{self.programs}/{name}", path, mode)
        return layer

    def write(self, name, content):
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        self.archive.addfile(entry, io.BytesIO(content))

    def image(self, tags, layer, **config):
        content = layer.close()
        digest = hashlib.sha256(content).hexdigest()
        described = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": [PATH], **config},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        described = json.dumps(described).encode()
        name = hashlib.sha256(described).hexdigest() + ".json"
        self.write(name, described)
        self.write(f"{digest}/layer.tar", content)
        self.manifest.append({"Config": name, "RepoTags": tags, "Layers": [f"{digest}/layer.tar"]})

    def close(self):
        self.write("manifest.json", json.dumps(self.manifest).encode())
        self.archive.close()


def main(programs, path):
    images = Images(programs, path)
    of = lambda *names: [name if "/" in name else REGISTRY + name for name in names]
    shell = lambda: images.applets(images.busybox())
    images.image(of("agnhost:2.66.1", "agnhost:2.55"), images.agnhost(), Entrypoint=["/agnhost"], Cmd=["pause"])
    images.image(of("busybox:1.37.0-2"), shell(), Cmd=["sh"])
    images.image(of("glibc-dns-testing:2.1.1"), images.agnhost(), Cmd=["sh"])
    images.image(of("ipc-utils:1.4"), shell(), Cmd=["sh"])
    images.image(of("nonroot:1.5"), shell(), Cmd=["sh"], User="1234")
    images.image(of("registry.k8s.io/pause:3.10.2"), images.agnhost(), Entrypoint=["/agnhost", "pause"])
    serve = ["/agnhost", "netexec", "--http-port=80", "--udp-port=-1"]
    images.image(of("nginx:1.27.0-2", "nginx:1.28.0-2"), images.nginx(), Cmd=serve)
    for pet in ("kitten", "nautilus"):
        images.image(of(f"{pet}:1.8"), images.pet(pet), Entrypoint=["/agnhost"], Cmd=["test-webserver"])
    images.image(of("nonewprivs:1.4"), images.with_program("nnp", "usr/local/bin/nnp", 0o6755), Cmd=["nnp"])
    regression = images.with_program("regression", "regression-issue-74839")
    images.image(of("regression-issue-74839:1.5"), regression, Entrypoint=["/regression-issue-74839"])
    images.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
