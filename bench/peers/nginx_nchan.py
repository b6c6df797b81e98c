"""nginx with Nchan: subscribers and the publisher over WebSocket, one location each.

https://nchan.io: locations are compared and not matched, as nginx' regular expressions cost more than Nchan itself;
messages stay in shared memory, ten of them (the default), as a channel that keeps none may miss some when publishing
is fast. A new subscriber begins with what comes, as the others' do.
"""

from __future__ import annotations

import shutil
import socket
import sys
import tempfile
from pathlib import Path

from bench.peers import NCHAN, NCHAN_MODULE, PATH
from bench.peers.launch import launch
from bench.wsload import TOPIC

CONFIG = """
daemon off;
pid {directory}/pid;
error_log stderr warn;
load_module {module};
worker_processes 1;
events {{ worker_connections 100000; }}
http {{
  access_log off;
  {temporary}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    nchan_channel_id {topic};
    location = {subscribe} {{
      nchan_subscriber websocket;
      nchan_subscriber_first_message newest;
    }}
    location = {publish} {{ nchan_publisher websocket; }}
  }}
}}
"""
KINDS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")  # of temporary files; the built-in places are root's


def _main() -> int:
    program = shutil.which("nginx", path=PATH) or "nginx"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory, "nginx.conf")
        text = CONFIG.format(
            directory=directory,
            module=NCHAN_MODULE,
            temporary="".join(f"{kind}_temp_path {directory}/{kind}; " for kind in KINDS),
            port=port,
            topic=TOPIC,
            subscribe=NCHAN.path,
            publish=NCHAN.publish_path,
        )
        config.write_text(text)
        return launch([program, "-e", "stderr", "-p", directory, "-c", str(config)], lambda: port)


sys.exit(_main())
