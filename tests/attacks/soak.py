"""A long run under attack (`make soak`): two honest nodes and a hostile one, with real processes and keys.

    python tests/attacks/soak.py --minutes 60 --folder build/soak

The hostile node has a key of its own. It answers every training and evaluation message with an attack; the tests in
this folder try most of these one by one. The exit code is 1 unless five conditions hold at the end:

- the run has finished all of its rounds, and no honest node has missed one;
- the hostile node has attacked in every round;
- no reply of the hostile node was used;
- scores, losses and the global adapter are bit for bit those of a run of only the two honest clients in one process;
- no process has grown: the median of its memory in the last quarter of the run exceeds the median in the second
  quarter by at most 5 % + 16 MiB (the first quarter loads models and fills pools).

A short run over the same nodes measures first how many rounds fit into the time.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import yaml
from attackers import with_array, with_values
from flower_node import answering
from flwr.app import Array, RecordDict
from test_client_arrays import HOSTILE
from test_client_metrics import EVALUATE, TRAIN

from feddat.app import messages
from feddat.app.checkpoint import read_state
from feddat.app.messages import Member
from feddat.benchmarks import load_benchmark
from feddat.config import load_config
from feddat.deploy.control import Control, let_in
from feddat.deploy.folder import write_consortium
from feddat.deploy.processes import Processes, free_ports
from feddat.experiment import Experiment
from feddat.one_line import one_line

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "consortium"))
from consortium import fill_in, lines, start_client, start_server, write_data

#: Honest client -> domain of the mini world that it holds.
HONEST = {"north": "sketch", "south": "night"}
EVE = "eve"
EXAMPLES = 24
#: Seconds that a client has to answer; one of the attacks keeps the server waiting until then.
DEADLINE = 60.0
SAMPLE = 5.0
#: Allowed growth of a process's memory from the second quarter of the run to the last: a share, plus MiB.
SHARE, MIB = 0.05, 16.0


class Eve:
    """The hostile node, which answers every training and evaluation message with an attack, all of them equally often.

    Attributes:
        sent: name of an attack -> number of times that it was sent.
    """

    def __init__(self, seed: int) -> None:
        self.sent: Counter[str] = Counter()
        self._draw, self._decks = random.Random(seed), {"train": [], "evaluate": []}

    def __call__(self, node, asked) -> None:
        kind = asked.metadata.message_type
        if kind == "query":
            node.answer(messages.name_reply(asked, Member(EVE, (EVE,), {}, "scores", EXAMPLES)).content, asked)
            return
        told = messages.read_instruction(asked)
        if kind == "train":
            metrics = {"loss": 1.0, "steps": 3.0, "examples": float(EXAMPLES)}
            content = messages.train_reply(asked, told.round, told.shared, EXAMPLES, metrics).content
        else:
            content = messages.evaluate_reply(asked, told.round, EVE, {EVE: {"dat": 50.0}}, {EVE: EXAMPLES}).content
        name, attack = self._next(kind)
        self.sent[name] += 1
        attack(node, asked, content)

    def _next(self, kind):
        if not self._decks[kind]:
            self._decks[kind] = sorted(attacks(kind).items())
            self._draw.shuffle(self._decks[kind])
        return self._decks[kind].pop()


def attacks(kind: str) -> dict:
    """Return the attacks on one kind of message: name -> function of the node, the message and the honest content."""

    def changed(change):
        return lambda node, asked, content: node.answer(change(content), asked)

    def hostile_array(data):
        def attack(node, asked, content):
            key = random.Random(asked.metadata.message_id).choice(sorted(content["shared"]))
            shape = tuple(content["shared"][key].shape)
            node.answer(with_array(key, Array("float32", shape, "numpy.ndarray", data))(content), asked)

        return attack

    shared = {
        "never whole": lambda node, asked, content: node.answer(content, asked, whole=False),
        "of another round": lambda node, asked, content: node.answer(_of_round(content, 10**6), asked),
        "invalid parts": lambda node, asked, _: node.answer_with(asked, b"Message \x1b[2J,,, 9999999999\x00junk"),
        "no message": lambda node, asked, content: node.answer_with(asked, content["metrics"].deflate()),
        "empty": lambda node, asked, _: node.answer(RecordDict(), asked),
        "in another's name": lambda node, asked, content: node.answer(
            _of_round(content, 10**6), asked, forge={"_src_node_id": 1, "_reply_to_message_id": "another"}
        ),
    }
    if kind == "evaluate":
        return shared | {f"evaluate: {name}": changed(change) for name, (change, *_) in EVALUATE.items()}
    values = {
        "noise": lambda value: value + np.random.default_rng(0).normal(0, 99, value.shape),
        "huge": lambda value: np.full_like(value, 1e30),
        "not a number": lambda value: value * math.nan,
        "infinite": lambda value: value + math.inf,
        "turned round, a thousandfold": lambda value: -1000 * (value + 1),
    }
    return (
        shared
        | {f"values: {name}": changed(with_values(change)) for name, change in values.items()}
        | {f"metrics: {name}": changed(change) for name, (change, _) in TRAIN.items()}
        | {f"array: {name}": hostile_array(data) for name, data in HOSTILE.items()}
    )


def _of_round(content, number):
    metrics = dict(content["metrics"]) | {messages.ROUND: number}
    return RecordDict({**content, "metrics": type(content["metrics"])(metrics)})


class Memory(threading.Thread):
    """Write the resident memory of this process and its descendants into a CSV file every few seconds."""

    def __init__(self, path: Path, processes: Processes) -> None:
        super().__init__(daemon=True)
        self.rows: list[tuple[float, str, float]] = []
        self._path, self._processes, self._over, self._began = path, processes, threading.Event(), time.monotonic()

    def run(self) -> None:
        with self._path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["seconds", "process", "MiB"])
            while not self._over.wait(SAMPLE):
                now = time.monotonic() - self._began
                found = [(round(now, 1), name, round(kib / 1024, 1)) for name, kib in self._look()]
                self.rows += found
                table.writerows(found)
                file.flush()

    def _look(self):
        told = subprocess.run(["ps", "-axo", "pid=,ppid=,rss=,args="], capture_output=True, text=True).stdout
        rows = {int(pid): (int(parent), int(rss), args) for pid, parent, rss, args in map(_fields, told.splitlines())}
        names = {process.pid: name for name, process in dict(self._processes._running).items()}
        for pid, (parent, rss, args) in rows.items():
            line, up = [pid], parent
            while up in rows and up != os.getpid():
                line.append(up)
                up = rows[up][0]
            if pid == os.getpid():
                yield "this script (with eve in it)", rss
            elif up == os.getpid() and (root := names.get(line[-1])):
                yield f"{root}: {_role(args)} {pid}", rss

    def stop(self) -> None:
        self._over.set()
        self.join()

    def table(self, since: float) -> list[tuple[str, float, float, float, bool]]:
        """Return a process's name, MiB in the second and last quarter, growth in MiB an hour, and whether it is flat.

        Time counts from ``since`` (seconds since the start). Processes that lived for less than nine tenths of it are
        left out.
        """
        kept = [(at, name, mib) for at, name, mib in self.rows if at >= since]
        until = max(at for at, *_ in kept)
        length, by_name = until - since, defaultdict(list)
        for at, name, mib in kept:
            by_name[name].append((at, mib))
        found = []
        for name, samples in sorted(by_name.items()):
            second = [mib for at, mib in samples if 0.25 <= (at - since) / length < 0.5]
            last = [mib for at, mib in samples if (at - since) / length >= 0.75]
            if not second or not last or samples[-1][0] - samples[0][0] < 0.9 * length:
                continue
            before, after = statistics.median(second), statistics.median(last)
            flat = after - before <= SHARE * before + MIB
            found.append((name, before, after, (after - before) / (length / 2) * 3600, flat))
        return found


def _fields(line: str) -> tuple[str, str, str, str]:
    pid, parent, rss, *args = line.split(None, 3)
    return pid, parent, rss, args[0] if args else ""


def _role(args: str) -> str:
    roles = {
        "serverapp": "server app",
        "clientapp": "client app",
        "resource_tracker": "tracker",
        "spawn_main": "worker",
    }
    found = [role for sign, role in roles.items() if sign in args]
    found += [word for word in ("server", "client", "node", "run") if f"deploy {word}" in args or f"cli {word}" in args]
    return (found or [Path(args.split()[0]).name])[0]


def settings(folder: Path, name: str, rounds: int) -> dict:
    """Return the settings that the deployment and the run in one process share."""
    return {
        "name": name,
        "runs_dir": str(folder / "runs"),
        "method": "feddat",
        "model": "vilt-mini",
        "benchmark": None,
        "rounds": rounds,
        "threads": 1,
        "train": {"lr": 2e-3, "batch_size": 8},
        "eval": {"every": 10},
    }


def deploy(processes: Processes, server, folder: Path, name: str, rounds: int) -> Path:
    """Run a federation of all three clients over their nodes; return the run's folder."""
    run = settings(folder, name, rounds) | {
        "clients": {client: {} for client in (*HONEST, EVE)},
        "runtime": {"kind": "deployment", "server": str(server.path)},
        "server": {"min_clients": 2, "deadline": DEADLINE},
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(run))
    processes.start(name, ["run", "-c", str(folder / f"{name}.yaml")])
    while name not in processes.ended():
        time.sleep(0.5)
    processes.stop(name)
    if not (folder / "runs" / name / "summary.json").is_file():
        sys.exit(f"the run {name} ended early:\n{processes.log(name).read_text()[-3000:]}")
    return folder / "runs" / name


def alone(folder: Path, rounds: int) -> Path:
    """Run only the two honest clients, in this process; return the run's folder."""
    run = settings(folder, "alone", rounds)
    run["clients"] = {
        name: {split: str(folder / "data" / name / f"{split}.jsonl") for split in ("train", "validation", "test")}
        for name in HONEST
    }
    path = folder / "alone.yaml"
    path.write_text(yaml.safe_dump(run))
    Experiment(load_config(path)).run()
    return folder / "runs" / "alone"


def seconds_a_round(run: Path) -> float:
    """Return the median time between the ends of two successive rounds."""
    ends = [line["time"] for line in lines(run / "log.jsonl") if line.get("event") == "round"]
    times = [datetime.fromisoformat(end).timestamp() for end in ends]
    return statistics.median(after - before for before, after in pairwise(times))


def differences(attacked: Path, honest: Path) -> list[str]:
    """Return the differences between the honest clients' numbers in two runs, in words."""
    found = []
    for name in HONEST:
        one, other = (json.loads((run / "summary.json").read_text())["clients"][name] for run in (attacked, honest))
        if one != other:
            found.append(f"scores of {name}: {one}, alone {other}")
        told = []
        for run in (attacked, honest):
            own = [line for line in lines(run / "metrics.jsonl") if line.get("client") == name]
            told.append([(line["round"], line.get("split"), _timeless(line)) for line in own])
        if told[0] != told[1]:
            odd = [pair for pair in zip(*told, strict=False) if pair[0] != pair[1]]
            found.append(f"metrics of {name}: {len(told[0])} lines and {len(told[1])}; first difference: {odd[:1]}")
    one, other = (read_state(sorted((run / "checkpoints").glob("round-*"))[-1])[0].shared for run in (attacked, honest))
    far = max(float((one[key] - other[key]).abs().max()) for key in one)
    if far:
        found.append(f"the global adapters differ by up to {far:.3g}")
    return found


def _timeless(line: dict) -> dict:
    return {key: value for key, value in line.get("metrics", line).items() if key != "seconds"}


def main() -> None:
    """Set up, measure, run under attack, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60.0, help="about how long the attacked run takes")
    parser.add_argument("--folder", type=Path, default=Path("build/soak"), help="must not exist, or be empty")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of attacks")
    options = parser.parse_args()
    folder = options.folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        parser.error(f"{folder} is not empty")
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended from outside"))  # so that all processes end, too

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", flush=True)

    link, *ports = free_ports(1 + len(HONEST))
    server = write_consortium(folder / "consortium", [*HONEST, EVE], ["127.0.0.1"], link)
    data = {client.name: client for client in load_benchmark("mini/domain", 0, EXAMPLES, EXAMPLES).clients}
    for (name, domain), port in zip(HONEST.items(), ports, strict=True):
        write_data(data[domain], folder / "data" / name)
        file = server.path.parent / "clients" / name / "client.yaml"
        fill_in(file, folder / "data" / name, port)
        site = yaml.safe_load(file.read_text())
        site["policy"] |= {"updates_a_day": 10**6, "evaluations_a_day": 10**6}
        site["policy"]["bounds"]["rounds"] = [1, 10**6]
        file.write_text(yaml.safe_dump(site, sort_keys=False))
    eve = Eve(options.seed)
    with Processes(folder / "logs") as processes:
        start_server(processes, server)
        control = Control(server.local_address, server.authority)
        let_in(control, server)
        control.close()
        for name in HONEST:
            start_client(processes, server, name)
        with answering(server.path.parent / "clients" / EVE, server.local_address, eve):
            short = deploy(processes, server, folder, "short", 8)
            per_round = seconds_a_round(short)
            decks = len(attacks("train"))
            rounds = max(20, round(60 * options.minutes / (per_round + DEADLINE / decks)))
            say(f"a round takes {per_round:.1f} s; {rounds} rounds follow, one of {decks} attacks in each")
            eve.sent.clear()
            memory = Memory(folder / "memory.csv", processes)
            memory.start()
            attacked = deploy(processes, server, folder, "attacked", rounds)
            memory.stop()
    say(f"done; the same {rounds} rounds without the attacker follow")
    honest = alone(folder, rounds)
    report(attacked, honest, memory, eve, rounds, say)


def report(attacked: Path, honest: Path, memory: Memory, eve: Eve, rounds: int, say) -> None:
    """Print the findings, and exit with code 1 if a condition does not hold."""
    problems = differences(attacked, honest)
    told = lines(attacked / "metrics.jsonl")
    for name in HONEST:
        trained = sum(line.get("client") == name and line.get("split") == "train" for line in told)
        if trained != rounds:
            problems.append(f"{name} trained in {trained} of {rounds} rounds")
    attacks_in = {line["round"] for line in told if line.get("client") == EVE}
    if len(attacks_in) < rounds:
        problems.append(f"{EVE} attacked in {len(attacks_in)} of {rounds} rounds")
    if used := [line for line in told if line.get("client") == EVE and "metrics" in line]:
        problems.append(f"{len(used)} replies of {EVE} were used, the first in round {used[0]['round']}")
    stopped = sum(line.get("client") == EVE and ("failed" in line or "refused" in line) for line in told)
    say(f"{sum(eve.sent.values())} attacks of {len(eve.sent)} kinds were sent; stopped: {stopped}")
    print("\n| process | MiB, second quarter | MiB, last quarter | MiB an hour | flat |")
    print("| --- | ---: | ---: | ---: | --- |")
    for name, before, after, hourly, flat in memory.table(0.0):
        print(f"| {name} | {before:.1f} | {after:.1f} | {hourly:+.1f} | {'yes' if flat else 'NO'} |")
        if not flat:
            problems.append(f"{name} has grown from {before:.0f} to {after:.0f} MiB")
    scores = json.loads((attacked / "summary.json").read_text())["clients"]
    print("\n" + "; ".join(f"{name} {scores[name]}" for name in HONEST))
    size = (attacked / "log.jsonl").stat().st_size / rounds
    print(f"log of the run: {size:.0f} bytes a round; samples of memory: {attacked.parents[1] / 'memory.csv'}")
    for problem in problems:
        print(f"NOT AS IT MUST BE: {one_line(problem)}")
    if not problems:
        print("every round was done, nothing hostile was used, numbers as without the attacker, memory flat")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
