"""Commands `dvc` and `python -m pipeline.<stage>` that start in a fork of a process which has imported what they need.

`dvc repro` on tiny parameters spends most of its time importing torch, for each stage anew. The commands in
`WarmCommands.folder`, put first on PATH, hand their arguments, environment, working directory and open files to a
server that imported the libraries once (nothing of this project), and end as the fork does. Whoever kills such a
command does not kill its fork: what is to be killed has to be started without them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

_CLIENT = """#!{python} -IS
import json, os, socket, sys
name, arguments = os.path.basename(sys.argv[0]), sys.argv[1:]
files = [n for n in map(int, os.listdir("/proc/self/fd")) if os.path.exists(f"/proc/self/fd/{{n}}")]
if name == "python":
    if arguments[-1:] == ["--multiprocessing-fork"]:
        arguments = arguments[arguments.index("-c") :]  # without the interpreter's options
    elif arguments[:1] != ["-m"] or not arguments[1].startswith("pipeline."):
        os.execv({python!r}, [{python!r}, *arguments])
order = json.dumps([name, arguments, dict(os.environ), os.getcwd(), files]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(order).to_bytes(8, "big")], files)
    server.sendall(order)
    code = server.recv(8)
sys.exit(int(code) if code else 1)
"""

_SERVER = """
import atexit, fcntl, json, multiprocessing, os, runpy, select, socket, sys, threading, traceback
address, commands = sys.argv[1:]
HIGH = 500  # where descriptors lie that nobody names

import torch, torchvision
weight = torch.nn.Parameter(torch.zeros(1))
torch.optim.Adam([weight], fused=True).step()  # imports what takes long
import deap.tools, jinja2, matplotlib.backends.backend_svg, matplotlib.pyplot, mlxtend.data, moocore, numba, pandas
import pydantic, safetensors.torch, scipy.stats, torchvision.transforms.v2, tqdm, yaml
import dvc.cli, dvc.commands.experiments.run, dvc.commands.repro, dvc.repo.experiments.show, dvc.repo.reproduce

def run(name, arguments, environment, folder, files, received):
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for ours, theirs in zip([fcntl.fcntl(each, fcntl.F_DUPFD, HIGH) for each in received], files):
        os.dup2(ours, theirs)
        os.close(ours)
    for each in {*received} - {*files}:
        os.close(each)
    multiprocessing.set_executable(os.path.join(commands, "python"))
    sys.argv = [name, *arguments]
    if name == "dvc":
        return dvc.cli.main(arguments)
    sys.path.insert(0, folder)
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        exec(arguments[1], {"__name__": "__main__"})
    else:
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    return 0

def child(descriptor, order, received):
    answer = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, HIGH)
    code = 1
    try:
        code = run(*order, received)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(answer, str(code).encode())
        os._exit(code & 255)

listening = socket.socket(socket.AF_UNIX)
listening.bind(address)
listening.listen()
print("ready", flush=True)
forks = []
while listening in select.select([listening, sys.stdin], [], [])[0]:
    connection, _ = listening.accept()
    size, received, _, _ = socket.recv_fds(connection, 8, 250)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += connection.recv(2**20)
    forks.append(os.fork())
    if forks[-1] == 0:
        listening.close()
        child(connection.fileno(), json.loads(content), received)
    for descriptor in received:
        os.close(descriptor)
    connection.close()
    forks = [fork for fork in forks if os.waitpid(fork, os.WNOHANG) == (0, 0)]
"""


class WarmCommands:
    """A folder with the commands, and the server behind them."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name) / "bin"
        self.folder.mkdir()
        address = str(self.folder.with_name("server"))
        for name in ("dvc", "python"):
            path = self.folder / name
            path.write_text(_CLIENT.format(python=sys.executable, address=address))
            path.chmod(0o755)
        self._server = subprocess.Popen(
            [sys.executable, "-P", "-c", _SERVER, address, str(self.folder)],
            cwd=self.folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout is not None
        if self._server.stdout.readline() != "ready\n":
            raise AssertionError("the server of warm commands did not start")

    def close(self) -> None:
        """End the server; its folder goes."""
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(timeout=300)
        self._server.stdout.close()
        self._temporary.cleanup()
