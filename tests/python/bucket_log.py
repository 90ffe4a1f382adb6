"""A server whose log is on buckets while everything else is on disks, so that all requests are the log's."""

import json

from conftest import SECTIONS, Server


class LogServer(Server):
    """`wal` lists the WAL roots; `stores` are `(store, endpoint)` pairs, with the endpoint of a fault proxy or `None`."""

    def __init__(self, base, wal, stores, keys=None):
        self.log_stores = stores
        urls = {component: [f"file://{base}/{component}"] for component in SECTIONS} | {"wal": wal}
        super().__init__(base, urls=urls, keys={"metadata": {"backup_replicas": 1}} | (keys or {}))

    def variables(self):
        named = [store.variables(endpoint) for store, endpoint in self.log_stores]
        return {name: value for options in named for name, value in options.values()}

    def write_config(self):
        super().write_config()
        lines = []
        for store, endpoint in self.log_stores:
            lines += [f'[storage.credentials."{store.url}"]']
            lines += [f"{option} = {json.dumps(name)}" for option, (name, _) in store.variables(endpoint).items()]
        with open(self.config, "a") as file:
            file.write("\n".join(lines) + "\n")

    def metric(self, name, **labels):
        """Sum of a series over everything that carries these labels."""
        lines = self.request("GET", "/metrics")[1].splitlines()
        with_labels = [line for line in lines if line.startswith(name) and all(f'{key}="{value}"' in line for key, value in labels.items())]
        return sum(float(line.rsplit(" ", 1)[1]) for line in with_labels)
