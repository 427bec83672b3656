"""Three hospitals and a server on one machine, with TLS and keys, and with the failures that occur in practice.

    python consortium.py [FOLDER]

A SuperLink and three SuperNodes run as separate processes on 127.0.0.1, each node with its own data folder, keys and
state. In round 2, one node is killed; in round 4, it restarts and finds its personal state. In round 5, the server is
killed and restarted, and the run is resumed. At the end, the script prints the table of scores.

Lines in logs trigger every event, not fixed times, so the scores do not depend on the speed of the machine.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import yaml
from PIL import Image

from feddat.benchmarks import load_benchmark
from feddat.deploy.control import Control
from feddat.deploy.folder import ServerFolder, write_consortium
from feddat.deploy.processes import Processes, free_ports
from feddat.example import ClientData
from feddat.example import Image as Pixels
from feddat.site import read_site

HOSPITALS = {"north": "sketch", "south": "night", "west": "photo"}
ROUNDS = 6
#: Seconds between a node's heartbeats; after two missed ones, the server gives it up.
HEARTBEAT = 10
#: Seconds between two reads of a log.
PAUSE = 0.05


def main(folder: Path) -> None:
    """Set up and run the consortium, kill and restart processes, and resume the run."""
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)

    link_port, *node_ports = free_ports(1 + len(HOSPITALS))
    server = write_consortium(folder / "consortium", list(HOSPITALS), ["127.0.0.1"], link_port)
    data = {client.name: client for client in load_benchmark("mini/domain", 0, 24, 24).clients}
    for (name, domain), port in zip(HOSPITALS.items(), node_ports, strict=True):
        write_data(data[domain], folder / "data" / name)
        fill_in(folder / "consortium" / "clients" / name / "client.yaml", folder / "data" / name, port)
    write_run(server)
    say(f"keys, certificates and data of {', '.join(HOSPITALS)} are in {folder}")

    with Processes(folder / "logs") as processes:
        start_server(processes, server)
        for name in HOSPITALS:
            start_client(processes, server, name)
        processes.start("run", ["run", "-c", str(server.path / "run.yaml")])
        run = server.path / "runs" / "first"
        wait_for(processes, own_log(server, "west"), event="asked", kind="train", round=2)
        processes.kill("west")
        say("round 2: killed the node of west at its training")
        wait_for(processes, run / "log.jsonl", event="asked", kind="train", round=4)
        say(f"rounds 2 and 3 went on without it: {'; '.join(problems(run))}")
        start_client(processes, server, "west")
        say("round 4: started the node of west again")
        wait_for(processes, run / "log.jsonl", event="asked", kind="train", round=5)
        processes.kill("superlink")
        processes.kill("run")
        say("round 5: killed the server")
        start_server(processes, server)
        processes.start("run", ["run", "--resume", str(run)])
        say("started it again and resumed the run")
        wait_for(processes, run / "log.jsonl", event="done")
        while "run" not in processes.ended():
            time.sleep(PAUSE)
        summary = json.loads((run / "summary.json").read_text())
        for name in HOSPITALS:
            trained = [line for line in lines(run / "metrics.jsonl") if line.get("split") == "train"]
            rounds = (str(line["round"]) for line in trained if line["client"] == name)
            say(f"{name} trained in rounds {', '.join(rounds)}")
        say(f"{summary['rounds']} rounds; answers missing: {summary['failed']}; lost: nothing")
    table = processes.log("run").read_text().splitlines()
    print("\n".join(table[max(i for i, line in enumerate(table) if line.startswith("FedDAT on")) :]))


def start_server(processes: Processes, server: ServerFolder) -> None:
    """Start the SuperLink as its administrator does, and wait until it answers."""
    processes.start("superlink", ["deploy", "server", str(server.path)])
    control = Control(server.local_address, server.authority)
    control.wait(120)
    control.close()


def start_client(processes: Processes, server: ServerFolder, name: str) -> None:
    """Start a SuperNode as its administrator does."""
    place = server.path.parent / "clients" / name
    processes.start(name, ["deploy", "client", str(place)], {"FLWR_HOME": str(place / "flwr")})


def own_log(server: ServerFolder, name: str) -> Path:
    """Return the log of a client's processes on its own machine."""
    return read_site(server.path.parent / "clients" / name / "client.yaml").log_file


def wait_for(processes: Processes, log: Path, **fields: str | int) -> None:
    """Wait until a log has a line with these fields."""
    while not any(fields.items() <= line.items() for line in lines(log)):
        if "run" in (ended := processes.ended()) and ended["run"] != 0:
            sys.exit(f"the run ended early:\n{processes.log('run').read_text()}")
        time.sleep(PAUSE)


def lines(file: Path) -> list[dict]:
    """Return the complete lines of a JSON Lines file, which may not exist yet."""
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text().split("\n")[:-1]]


def problems(run: Path) -> list[str]:
    """Return the run's log lines about clients that did not answer."""
    return [f"{line['client']}: {line['failed']}" for line in lines(run / "metrics.jsonl") if "failed" in line]


def write_run(server: ServerFolder) -> None:
    """Set a short run in the ``run.yaml`` that ``init`` wrote."""
    path = server.path / "run.yaml"
    settings = yaml.safe_load(path.read_text())
    settings |= {"rounds": ROUNDS, "runs_dir": str(server.path / "runs"), "threads": 1}
    settings["runtime"]["server"] = str(server.path)
    settings["train"] = {"lr": 2e-3, "batch_size": 8}
    settings["eval"] = {"every": 3}
    path.write_text(yaml.safe_dump(settings, sort_keys=False))


def fill_in(path: Path, data: Path, port: int) -> None:
    """Fill in a ``client.yaml`` with the place of this hospital's data."""
    settings = yaml.safe_load(path.read_text())
    settings["data"] = {split: str(data / f"{split}.jsonl") for split in ("train", "validation", "test")}
    settings |= {"node_port": port, "threads": 1, "heartbeat": HEARTBEAT}
    # So little data is enough only for an example. Approve the run automatically, since nobody is there to do it.
    settings["policy"] |= {"approval": "first-use", "min_examples": 24, "min_questions": 12, "guarded_steps": False}
    settings["policy"]["bounds"]["train.steps"] = [3, 1000]
    path.write_text(yaml.safe_dump(settings, sort_keys=False))


def write_data(client: ClientData, folder: Path) -> None:
    """Write a client's examples as files, as a hospital would have them."""
    folder.mkdir(parents=True)
    for split in ("train", "validation", "test"):
        lines = []
        for number, example in enumerate(client.split(split)):
            name = f"{split}-{number}.png"
            save(example.images[0], folder / name)
            best = max(example.answers, key=example.answers.__getitem__)
            lines.append(json.dumps({"image": name, "question": example.text, "answers": best}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines))


def save(image: Pixels, path: Path) -> None:
    """Write pixels as a PNG file."""
    Image.fromarray(image).save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "run").resolve())
