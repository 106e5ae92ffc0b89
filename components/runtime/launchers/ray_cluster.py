"""A Ray cluster as a launcher: a placement group with one bundle on each of several of its nodes.

The driver is a process of its own, so that a stage's end, however it comes, ends the driver, and Ray then ends what the
driver started.
"""

import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from components.config import LauncherConfig
from components.runtime.launchers.place import Place
from components.runtime.nodes import marked_line

INDEX, NAME, HEAD = "RATCHET_NODE_INDEX", "RATCHET_NODE_NAME", "RATCHET_NODE_HEAD"
OF_A_NODE = frozenset({"CUDA_VISIBLE_DEVICES", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "HOSTNAME", "TMPDIR"})
"""Variables that each node has its own values of."""


def command(launcher: LauncherConfig, nodes: int, on_each_node: list[str]) -> list[str]:
    """Return the command that runs another one once on each of several nodes.

    Args:
        launcher: The launcher section.
        nodes: Number of nodes.
        on_each_node: The command of a node.
    """
    driver = [sys.executable, "-m", "components.runtime.launchers.ray_cluster"]
    return [*driver, launcher.model_dump_json(), str(nodes), *on_each_node]


def place() -> Place:
    """Return this node's place, as the driver has told it."""
    return Place(int(os.environ[INDEX]), os.environ[NAME], os.environ[HEAD])


def _drive(launcher: LauncherConfig, nodes: int, on_each_node: list[str]) -> int:
    """Run the command on each node, print what it prints, and return the first exit code that is not 0."""
    try:
        import ray
    except ImportError:
        sys.exit('launcher.kind ray needs Ray: pip install "dpo-ratchet[ray]"')
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    address = launcher.address or os.environ.get("RAY_ADDRESS") or "auto"
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except ConnectionError as error:
        first, *_ = str(error).splitlines()
        sys.exit(f"launcher.address {address}: {first}")
    bundle = {"CPU": launcher.cpus_per_node} | ({"GPU": launcher.gpus_per_node} if launcher.gpus_per_node else {})
    group = placement_group([bundle] * nodes, strategy="STRICT_SPREAD")
    while not group.wait(timeout_seconds=60):
        _say(f"waiting for {nodes} nodes of the Ray cluster with {bundle} each")

    def on(index: int, task: Any, **options: Any) -> Any:
        strategy = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=index)
        return ray.remote(task).options(
            num_cpus=launcher.cpus_per_node,
            num_gpus=launcher.gpus_per_node,
            max_retries=0,
            scheduling_strategy=strategy,
            **options,
        )

    hosts = ray.get([on(index, _host).remote() for index in range(nodes)])
    codes: dict[int, int] = {}

    def follow(index: int) -> None:
        (name, _), (_, head) = hosts[index], hosts[0]
        told = {INDEX: str(index), NAME: name, HEAD: head}
        environment = {name: value for name, value in os.environ.items() if name not in OF_A_NODE} | told
        lines = on(index, _run, num_returns="streaming").remote(on_each_node, environment)
        try:
            for line in lines:
                item = ray.get(line)
                if isinstance(item, int):
                    codes[index] = item
                else:
                    _say(item)
        except ray.exceptions.RayError as error:
            first, *_ = str(error).splitlines()
            _say(f"node {name}: {first}")
            _say(marked_line("lost", name, index=index))
            codes[index] = 1

    followers = [threading.Thread(target=follow, args=(index,), daemon=True) for index in range(nodes)]
    for follower in followers:
        follower.start()
    while any(follower.is_alive() for follower in followers) and not any(codes.values()):
        for follower in followers:
            follower.join(0.1)
    return max(codes.values(), default=1)


def _host() -> tuple[str, str]:
    """Return the name and the address of the node that this task runs on."""
    import ray

    return socket.gethostname(), ray.util.get_node_ip_address()


def _run(command: list[str], environment: dict[str, str]) -> Iterator[str | int]:
    """Run a command within a Ray task; yield its lines, then its exit code."""
    from components.runtime.children import child_process

    kept = {name: value for name, value in os.environ.items() if name in OF_A_NODE}
    with child_process(command, env=environment | kept) as child:
        assert child.stdout is not None
        for line in child.stdout:
            yield line.rstrip("\n")
        yield child.wait()


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    _settings, _nodes, *_command = sys.argv[1:]
    sys.exit(_drive(LauncherConfig.model_validate(json.loads(_settings)), int(_nodes), _command))
